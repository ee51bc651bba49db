package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/starling-sync/starling/sdk"
)

// settings is the config block, read and checked. The files it names are read again at each connection, so that they
// can be replaced.
type settings struct {
	servers  []string // URLs, without secrets
	subject  string   // what the subjects of the library begin with
	inbox    string   // what the subjects that this device receives on begin with
	discover bool     // also use the servers that servers tell of
	auth     string   // how this device signs in, for people
	options  []nats.Option
}

// block is the config block. Its methods remember the first mistake.
type block struct {
	values map[string]any
	known  map[string]bool
	err    error
}

func parseSettings(config json.RawMessage) (*settings, error) {
	b := &block{known: map[string]bool{}}
	if err := json.Unmarshal(config, &b.values); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "the config block is not an object: %w", err)
	}
	s := &settings{}
	b.read(s)
	b.unknown()
	if s.subject == "" {
		s.subject = "starling"
	}
	if s.inbox == "" {
		s.inbox = s.subject + ".inbox"
	}
	b.fail(checkServers(s.servers))
	for _, each := range []struct{ setting, value string }{{"subject", s.subject}, {"inbox", s.inbox}} {
		if err := checkName(each.value); err != nil {
			b.failf("%s: %w", each.setting, err)
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	return s, nil
}

// read reads every setting that there is.
func (b *block) read(s *settings) {
	s.servers, s.subject, s.inbox, s.discover = b.texts("servers"), b.text("subject"), b.text("inbox"), b.flag("discover", true)
	b.signIn(s)
	b.tls(s)
}

func (b *block) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *block) failf(format string, args ...any) {
	b.fail(sdk.Errorf(sdk.CodeInvalid, format, args...))
}

// value returns a setting; nil if it is not there.
func (b *block) value(name string) any {
	b.known[name] = true
	return b.values[name]
}

func (b *block) text(name string) string {
	switch v := b.value(name).(type) {
	case nil:
	case string:
		if v == "" {
			b.failf("%s is empty; give it a value, or remove the line", name)
		}
		return v
	default:
		b.failf("%s: want text in quotes", name)
	}
	return ""
}

func (b *block) texts(name string) []string {
	v := b.value(name)
	if v == nil {
		return nil
	}
	items, ok := v.([]any)
	var texts []string
	for _, item := range items {
		text, isText := item.(string)
		ok = ok && isText
		texts = append(texts, text)
	}
	if !ok {
		b.failf(`%s: want a list of text; write %s = ["nats://hub:4222"]`, name, name)
	}
	return texts
}

func (b *block) flag(name string, def bool) bool {
	switch v := b.value(name).(type) {
	case nil:
	case bool:
		return v
	default:
		b.failf("%s: want true or false", name)
	}
	return def
}

// unknown refuses what was not asked for.
func (b *block) unknown() {
	for _, name := range slices.Sorted(maps.Keys(b.values)) {
		if !b.known[name] {
			b.failf("%s is no setting of the NATS transport; those are %s", name, strings.Join(slices.Sorted(maps.Keys(b.known)), ", "))
		}
	}
}

func checkServers(servers []string) error {
	if len(servers) == 0 {
		return sdk.Errorf(sdk.CodeInvalid, `servers: no NATS server is named; write servers = ["nats://hub:4222"]`)
	}
	web := 0
	for _, server := range servers {
		u, err := url.Parse(server)
		switch {
		case err != nil:
			return sdk.Errorf(sdk.CodeInvalid, `servers: an item is no URL; write one such as "nats://hub:4222"`) // it may hold a password
		case u.User != nil:
			return sdk.Errorf(sdk.CodeInvalid, "servers: %s holds a user; move it to the settings user and password, or token", u.Redacted())
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Hostname() == "":
			return sdk.Errorf(sdk.CodeInvalid, `servers: %q is not a NATS server's URL; write one such as "nats://hub:4222" or "tls://hub:4222"`, server)
		case strings.HasPrefix(u.Scheme, "ws"):
			web++
		}
	}
	if web > 0 && web < len(servers) {
		return sdk.Errorf(sdk.CodeInvalid, "servers: WebSocket URLs (ws, wss) and others can not be mixed")
	}
	return nil
}

// checkName checks what becomes part of a subject: tokens with dots between them.
func checkName(name string) error {
	const most = 128
	if len(name) > most {
		return fmt.Errorf("%q is over %d bytes", name[:most], most)
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == '>' || r == ':' }) {
			return fmt.Errorf(`%q is no name on NATS; want letters, digits, - and _, with single dots between if need be, such as "alice"`, name)
		}
	}
	return nil
}

// signIn reads how this device shows the servers who it is.
func (b *block) signIn(s *settings) {
	user, password, token, nkey, creds := b.text("user"), b.text("password"), b.text("token"), b.text("nkey"), b.text("creds")
	var ways []string
	for _, way := range []struct{ name, value string }{{"user", user}, {"token", token}, {"nkey", nkey}, {"creds", creds}} {
		if way.value != "" {
			ways = append(ways, way.name)
		}
	}
	if len(ways) > 1 {
		b.failf("%s: these are different ways to sign in; keep one", strings.Join(ways, ", "))
		return
	}
	s.auth = "no sign-in is configured"
	switch {
	case user != "":
		if password == "" {
			b.failf("password is missing beside user")
		}
		s.auth = fmt.Sprintf("user %q", user)
		s.options = append(s.options, nats.UserInfo(user, password))
	case password != "":
		b.failf("user is missing beside password")
	case token != "":
		s.auth = "the token"
		s.options = append(s.options, nats.Token(token))
	case nkey != "":
		s.auth = "nkey " + nkey
		b.nkey(s, nkey)
	case creds != "":
		s.auth = "creds " + creds
		b.creds(s, creds)
	}
}

func (b *block) nkey(s *settings, path string) {
	absolute, _, ok := b.file("nkey", path)
	if !ok {
		return
	}
	option, err := nats.NkeyOptionFromSeed(absolute)
	if err != nil {
		b.failf("nkey: %s holds no seed of a user, which begins with SU; make one with: nk -gen user", path) // the cause may quote it
		return
	}
	s.options = append(s.options, option)
}

func (b *block) creds(s *settings, path string) {
	absolute, content, ok := b.file("creds", path)
	if !ok {
		return
	}
	_, noToken := nkeys.ParseDecoratedJWT(content)
	key, noKey := nkeys.ParseDecoratedUserNKey(content)
	if noToken != nil || noKey != nil {
		b.failf("creds: %s does not hold a user's token and key; make it with: nsc generate creds", path)
		return
	}
	key.Wipe()
	s.options = append(s.options, nats.UserCredentials(absolute))
}

// tls reads what the TLS to the servers is checked with. It is between this device and a server; that between two devices
// is the host's.
func (b *block) tls(s *settings) {
	ca, cert, key := b.text("ca"), b.text("cert"), b.text("key")
	if ca != "" {
		absolute, content, ok := b.file("ca", ca)
		if ok && !x509.NewCertPool().AppendCertsFromPEM(content) {
			b.failf("ca: %s holds no certificate in PEM form", ca)
		}
		s.options = append(s.options, nats.RootCAs(absolute))
	}
	switch {
	case cert == "" && key == "":
	case cert == "":
		b.failf("cert is missing beside key")
	case key == "":
		b.failf("key is missing beside cert")
	default:
		certPath, certPEM, ok1 := b.file("cert", cert)
		keyPath, keyPEM, ok2 := b.file("key", key)
		if !ok1 || !ok2 {
			return
		}
		if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
			b.failf("cert: %s and key %s: %w", cert, key, err)
		}
		s.options = append(s.options, nats.ClientCert(certPath, keyPath))
	}
}

// file reads a file that a setting names, for a look. Relative paths start from the working directory, which is the
// folder of config.hcl.
func (b *block) file(name, path string) (absolute string, content []byte, ok bool) {
	absolute, err := filepath.Abs(path)
	if err == nil {
		content, err = os.ReadFile(absolute) //nolint:gosec // the operator names it
	}
	if wrong, is := errors.AsType[*fs.PathError](err); is {
		err = wrong.Err
	}
	if err != nil {
		b.failf("%s: %s: %w", name, path, err)
		return "", nil, false
	}
	return absolute, content, true
}
