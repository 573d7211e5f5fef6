package near

import "testing"

func TestNearest(t *testing.T) {
	t.Parallel()
	there := []string{"flights", "airports", "flight_delays", "größe", "b", "B2", "name", "id", "mean"}
	for name, want := range map[string]string{
		"fligths": "flights", "FLIGHTS": "flights", "flight": "flights", "airport": "airports", "flight_delay": "flight_delays", "größen": "größe",
		"nmae": "name", "nam": "name", "mena": "mean", "idd": "id", "in": "id", "b": "b", "": "", "x": "", "xy": "", "something else": "", "\xff": "",
	} {
		if got := Nearest(name, there); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	// Of equals the first by name, whatever the order.
	for _, c := range [][]string{{"ab1", "ab2"}, {"ab2", "ab1"}} {
		if got := Nearest("ab3", c); got != "ab1" || c[0][:2] != "ab" {
			t.Errorf("%v: %q", c, got)
		}
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("%q of nothing", got)
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "ab", 2},
		{"ab", "", 2},
		{"ab", "ba", 1},
		{"abc", "abd", 1},
		{"abcd", "acbd", 1},
		{"kitten", "sitting", 3},
		{"ca", "abc", 3}, // a swap is not edited again
	} {
		if got := distance([]rune(c.a), []rune(c.b)); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
