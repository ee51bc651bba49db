package main

import (
	"context"
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

// block is the config block.
type block struct {
	Servers  []string `starling:"servers,required" doc:"URLs of NATS servers: nats://, tls://, ws:// or wss://; name two or more"`
	Subject  string   `starling:"subject" doc:"what the library's subjects begin with; the same on every device"`
	Inbox    string   `starling:"inbox" doc:"what the subjects begin with that this device receives on; by default subject, then .inbox"`
	Discover bool     `starling:"discover" doc:"also use the servers that a server tells of"`
	User     string   `starling:"user" doc:"sign in by this name, and password"`
	Password string   `starling:"password,secret" doc:"of user"`
	Token    string   `starling:"token,secret" doc:"sign in by a shared token"`
	NKey     string   `starling:"nkey" doc:"sign in by the seed in this file"`
	Creds    string   `starling:"creds" doc:"sign in by the token and key in this file"`
	CA       string   `starling:"ca" doc:"file (PEM) of the authorities that servers are checked with; also: no server without TLS"`
	Cert     string   `starling:"cert" doc:"file (PEM) of this device's certificate for the servers, beside key"`
	Key      string   `starling:"key" doc:"file (PEM) of the key of cert"`

	made  *settings // by Check
	found []error   // mistakes
}

func defaults() *block { return &block{Subject: "starling", Discover: true} }

func parseSettings(config json.RawMessage) (*settings, error) {
	if err := checkEmpty(config); err != nil {
		return nil, err
	}
	b := defaults()
	if err := sdk.Settings(b).Configure(context.Background(), config); err != nil {
		return nil, err
	}
	return b.made, nil
}

// checkEmpty refuses empty text: a variable that is set to nothing must not come to signing in with nothing.
func checkEmpty(config json.RawMessage) error {
	var values map[string]any
	_ = json.Unmarshal(config, &values) // Configure says what is wrong with it
	var found []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if values[name] == "" {
			found = append(found, sdk.BadSetting(name, "it is empty; give it a value, or remove the line"))
		}
	}
	return errors.Join(found...)
}

// Check reads the block, and the files that it names.
func (b *block) Check() error {
	names := []struct{ setting, value string }{{"subject", b.Subject}, {"inbox", b.Inbox}}
	if b.Inbox == "" {
		b.Inbox = b.Subject + ".inbox"
		names = names[:1] // what is wrong with it is wrong with subject
	}
	s := &settings{servers: b.Servers, subject: b.Subject, inbox: b.Inbox, discover: b.Discover}
	if err := checkServers(b.Servers); err != nil {
		b.found = append(b.found, err)
	}
	for _, each := range names {
		if err := checkName(each.value); err != nil {
			b.failf(each.setting, "%w", err)
		}
	}
	b.signIn(s)
	b.tls(s)
	b.made = s
	return errors.Join(b.found...)
}

func (b *block) failf(setting, format string, args ...any) {
	b.found = append(b.found, sdk.BadSetting(setting, format, args...))
}

func checkServers(servers []string) error {
	if len(servers) == 0 {
		return sdk.BadSetting("servers", `no NATS server is named; write servers = ["nats://hub:4222"]`)
	}
	web := 0
	for _, server := range servers {
		u, err := url.Parse(server)
		switch {
		case err != nil:
			return sdk.BadSetting("servers", `an item is no URL; write one such as "nats://hub:4222"`) // it may hold a password
		case u.User != nil:
			return sdk.BadSetting("servers", "%s holds a user; move it to the settings user and password, or token", u.Redacted())
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Hostname() == "":
			return sdk.BadSetting("servers", `%q is not a NATS server's URL; write one such as "nats://hub:4222" or "tls://hub:4222"`, server)
		case strings.HasPrefix(u.Scheme, "ws"):
			web++
		}
	}
	if web > 0 && web < len(servers) {
		return sdk.BadSetting("servers", "WebSocket URLs (ws, wss) and others can not be mixed")
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
	user, password, token, nkey, creds := b.User, b.Password, b.Token, b.NKey, b.Creds
	var ways []string
	for _, way := range []struct{ name, value string }{{"user", user}, {"token", token}, {"nkey", nkey}, {"creds", creds}} {
		if way.value != "" {
			ways = append(ways, way.name)
		}
	}
	if len(ways) > 1 {
		b.failf(ways[1], "%s are different ways to sign in; keep one", strings.Join(ways, ", "))
		return
	}
	s.auth = "no sign-in is configured"
	switch {
	case user != "":
		if password == "" {
			b.failf("user", "password is missing beside it")
		}
		s.auth = fmt.Sprintf("user %q", user)
		s.options = append(s.options, nats.UserInfo(user, password))
	case password != "":
		b.failf("password", "user is missing beside it")
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
		b.failf("nkey", "%s holds no seed of a user, which begins with SU; make one with: nk -gen user", path) // the cause may quote it
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
		b.failf("creds", "%s does not hold a user's token and key; make it with: nsc generate creds", path)
		return
	}
	key.Wipe()
	s.options = append(s.options, nats.UserCredentials(absolute))
}

// tls reads what the TLS to the servers is checked with. It is between this device and a server; that between two devices
// is the host's.
func (b *block) tls(s *settings) {
	ca, cert, key := b.CA, b.Cert, b.Key
	if ca != "" {
		absolute, content, ok := b.file("ca", ca)
		if ok && !x509.NewCertPool().AppendCertsFromPEM(content) {
			b.failf("ca", "%s holds no certificate in PEM form", ca)
		}
		s.options = append(s.options, nats.RootCAs(absolute))
	}
	switch {
	case cert == "" && key == "":
	case cert == "":
		b.failf("key", "cert is missing beside it")
	case key == "":
		b.failf("cert", "key is missing beside it")
	default:
		certPath, certPEM, ok1 := b.file("cert", cert)
		keyPath, keyPEM, ok2 := b.file("key", key)
		if !ok1 || !ok2 {
			return
		}
		if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
			b.failf("cert", "%s and key %s: %w", cert, key, err)
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
		b.failf(name, "%s: %w", path, err)
		return "", nil, false
	}
	return absolute, content, true
}
