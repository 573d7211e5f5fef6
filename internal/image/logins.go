package image

import (
	"context"
	"net/url"
	"strings"

	"tarn.dev/tarn/internal/base/pattern"
)

// Lookup finds the value of a variable that a project keeps secret; ok tells whether it has one.
type Lookup func(ctx context.Context, name string) (value string, ok bool, err error)

type lookupKey struct{}

// WithLookup lets what is done in ctx log in to package indexes with what a project keeps secret, beside the
// variables of the user's environment. It is of a call and not of a store, which serves many projects.
func WithLookup(ctx context.Context, l Lookup) context.Context {
	return context.WithValue(ctx, lookupKey{}, l)
}

var notInVariable = pattern.Of(`[^A-Z0-9]`)

// logins are the variables that uv takes the credentials of named indexes from, as far as the project keeps them.
func logins(ctx context.Context, indexes []string) (map[string]string, error) {
	look, ok := ctx.Value(lookupKey{}).(Lookup)
	if !ok {
		return nil, nil
	}
	found := map[string]string{}
	for _, index := range indexes {
		name, _ := splitIndex(index)
		if name == "" {
			continue
		}
		for _, part := range []string{"_USERNAME", "_PASSWORD"} {
			variable := "UV_INDEX_" + notInVariable().ReplaceAllString(strings.ToUpper(name), "_") + part
			value, ok, err := look(ctx, variable)
			if err != nil {
				return nil, err
			}
			if ok {
				found[variable] = value
			}
		}
	}
	return found, nil
}

// splitIndex takes "NAME=URL" apart; a URL may hold a "=" of its own.
func splitIndex(index string) (name, address string) {
	name, address, named := strings.Cut(index, "=")
	if !named || strings.ContainsAny(name, "/:") {
		return "", index
	}
	return name, address
}

// checkIndexes keeps out what uv would take for an option, and passwords, which would stand in tarn.lock.
func checkIndexes(indexes []string) error {
	for _, index := range indexes {
		if index == "" || strings.HasPrefix(index, "-") || strings.ContainsAny(index, " \t\n\r\x00") {
			return ErrRequirement.Errorf("index %q is no URL", hideLogins(index))
		}
		name, address := splitIndex(index)
		u, err := url.Parse(address)
		if err != nil || u.User == nil {
			continue // a folder, or what uv refuses
		}
		if name == "" {
			name = "own"
		}
		variable := "UV_INDEX_" + notInVariable().ReplaceAllString(strings.ToUpper(name), "_")
		return ErrRequirement.Errorf("index %s has credentials in its URL, which would stand in tarn.lock", hideLogins(index)).
			WithNext("give it a name: name = \""+name+"\" beside its url", "tarn secret set "+variable+"_USERNAME", "tarn secret set "+variable+"_PASSWORD")
	}
	return nil
}

var loginInURL = pattern.Of(`(://)[^/\s@]+@`)

// hideLogins takes user names and passwords out of the URLs in a text.
func hideLogins(text string) string { return loginInURL().ReplaceAllString(text, "${1}***@") }

// hiding is progress without what hideLogins hides.
func hiding(progress func(string)) func(string) {
	if progress == nil {
		return nil
	}
	return func(line string) { progress(hideLogins(line)) }
}
