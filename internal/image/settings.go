package image

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// environ is the part of a user's environment that decides where packages come from.
type environ map[string]string

// userVariables are the variables, and beginnings of them, that uv and pip look at. Nothing else
// reaches them: a token in the server's environment is none of a build script's business.
var userVariables = []string{
	"PATH", "HOME", "USER", "LANG", "TMPDIR", "NETRC", "UV_*", "PIP_*", "XDG_*", "PYENV_ROOT", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
}

// UserVariable reports whether an environment variable of the user's shell decides where packages and
// interpreters come from, so that whoever starts a server must pass it on.
func UserVariable(name string) bool {
	name = strings.ToUpper(name) // proxies are written in lower case too
	return slices.ContainsFunc(userVariables, func(v string) bool {
		prefix, isPrefix := strings.CutSuffix(v, "*")
		return name == v || isPrefix && strings.HasPrefix(name, prefix)
	})
}

func newEnviron(list []string) environ {
	e := environ{}
	for _, kv := range list {
		if name, value, ok := strings.Cut(kv, "="); ok && UserVariable(name) {
			e[name] = value
		}
	}
	// uv does not read pip's settings. Where only pip is configured, its index is the one meant.
	for _, m := range []struct{ pip, uv, older string }{
		{"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"},
		{"PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"},
		{"PIP_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR"},
	} {
		if v := e[m.pip]; v != "" && e[m.uv] == "" && e[m.older] == "" {
			e[m.uv] = v
		}
	}
	return e
}

func (e environ) get(name string) string { return e[name] }

// credentials are the variables that name files with passwords for many places.
var credentials = []string{"NETRC", "UV_CREDENTIALS_DIR"}

// settings are what uv and pip are to know of the user's environment, and the files and folders that it leads to. Their home
// will be another one, so what they would look for in the user's is named.
func (e environ) settings() (env map[string]string, files []string) {
	env = maps.Clone(e)
	home := e.get("HOME")
	for _, d := range []struct{ variable, path string }{
		{"XDG_CONFIG_HOME", filepath.Join(home, ".config")},
		{"NETRC", filepath.Join(home, ".netrc")},
		{"UV_CREDENTIALS_DIR", filepath.Join(cmp.Or(e.get("XDG_DATA_HOME"), filepath.Join(home, ".local/share")), "uv/credentials")},
		{"PIP_CONFIG_FILE", filepath.Join(home, ".pip/pip.conf")},
	} {
		if env[d.variable] == "" && exists(d.path) {
			env[d.variable] = d.path
		}
	}
	candidates := []string{
		filepath.Join(env["XDG_CONFIG_HOME"], "uv/uv.toml"), filepath.Join(env["XDG_CONFIG_HOME"], "pip/pip.conf"),
		"/etc/uv/uv.toml", "/etc/pip.conf",
	}
	for _, name := range []string{
		"NETRC", "UV_CREDENTIALS_DIR", "UV_CONFIG_FILE", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT",
	} {
		candidates = append(candidates, env[name])
	}
	for _, name := range []string{
		"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS",
	} {
		candidates = append(candidates, localIndexes(strings.FieldsFunc(env[name], func(r rune) bool { return r == ',' || unicode.IsSpace(r) }))...)
	}
	for _, path := range candidates {
		if filepath.IsAbs(path) && exists(path) && !slices.Contains(files, path) {
			files = append(files, filepath.Clean(path))
		}
	}
	return env, files
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// localIndexes are the folders among package indexes, each "URL", "NAME=URL" or a path.
func localIndexes(indexes []string) []string {
	var out []string
	for _, index := range indexes {
		_, index = splitIndex(index)
		if path := strings.TrimPrefix(index, "file://"); filepath.IsAbs(path) {
			out = append(out, path)
		}
	}
	return out
}
