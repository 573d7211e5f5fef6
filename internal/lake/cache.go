package lake

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cache keeps recently read objects up to a number of bytes.
type cache struct {
	mu      sync.Mutex
	entries *simplelru.LRU[Hash, cached]
	bytes   int64
	limit   int64
}

type cached struct {
	typ  Type
	data []byte
}

// cacheOverhead is what an entry costs besides its data.
const cacheOverhead = 200

func newCache(limit int64) *cache {
	c := &cache{limit: limit}
	c.entries, _ = simplelru.NewLRU(int(limit/cacheOverhead)+1, func(_ Hash, e cached) { // fails for a size of 0 only
		c.bytes -= int64(len(e.data)) + cacheOverhead
	})
	return c
}

func (c *cache) get(h Hash, t Type) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries.Get(h)
	return e.data, ok && e.typ == t
}

// purge empties the cache.
func (c *cache) purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.Purge()
}

func (c *cache) add(h Hash, t Type, data []byte) {
	size := int64(len(data)) + cacheOverhead
	if size > c.limit/8 {
		return // one huge object must not empty the cache
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries.Contains(h) {
		return
	}
	c.bytes += size
	c.entries.Add(h, cached{t, data})
	for c.bytes > c.limit {
		c.entries.RemoveOldest()
	}
}
