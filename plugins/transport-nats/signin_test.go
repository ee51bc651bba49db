package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/starling-sync/starling/sdk"
)

// works wants two devices with the same settings to reach one another.
func works(t *testing.T, s *server.Server, settings map[string]any) {
	t.Helper()
	config := configOf(t, []*server.Server{s}, settings)
	alice, bob := newTransport(t, config), newTransport(t, config)
	a, b := connect(t, bob, listenAs(t, alice, newName()))
	mustTalk(t, a, b)
}

// refused wants a device not to be let in, and every one of words in the reason.
func refused(t *testing.T, s *server.Server, settings map[string]any, words ...string) {
	t.Helper()
	device := newTransport(t, configOf(t, []*server.Server{s}, settings))
	_, err := device.Dial(t.Context(), "nobody")
	if sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("want unavailable, since a server's settings may change; got %s: %v", sdk.CodeOf(err), err)
	}
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("no %q in: %v", word, err)
		}
	}
	if check := device.Check(t.Context()); check == nil {
		t.Error("the check knows nothing of it")
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSignIn(t *testing.T) {
	t.Run("user", func(t *testing.T) {
		s := startServer(t, func(o *server.Options) { o.Username, o.Password = "fleet", "sesame" })
		works(t, s, map[string]any{"user": "fleet", "password": "sesame"})
		refused(t, s, map[string]any{"user": "fleet", "password": "wrong"}, `user "fleet"`, "Authorization Violation")
		refused(t, s, nil, "no sign-in is configured", "Authorization Violation")
	})
	t.Run("token", func(t *testing.T) {
		s := startServer(t, func(o *server.Options) { o.Authorization = "sesame" })
		works(t, s, map[string]any{"token": "sesame"})
		refused(t, s, map[string]any{"token": "wrong"}, "the token", "Authorization Violation")
	})
	t.Run("nkey", func(t *testing.T) {
		good, seed := newUser(t)
		_, other := newUser(t)
		s := startServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: good}} })
		works(t, s, map[string]any{"nkey": write(t, "alice.nk", seed)})
		refused(t, s, map[string]any{"nkey": write(t, "bob.nk", other)}, "nkey ", "bob.nk", "Authorization Violation")
	})
	t.Run("creds", func(t *testing.T) {
		fleet := newOperator(t)
		s := startServer(t, fleet.configure)
		works(t, s, map[string]any{"creds": write(t, "alice.creds", fleet.creds(t, time.Hour))})
		refused(t, s, map[string]any{"creds": write(t, "bob.creds", newOperator(t).creds(t, time.Hour))}, "creds ", "bob.creds", "Authorization Violation")
	})
}

// TestSignIn_CredsExpire has the server end a device's connection when its creds expire, and the device use those that
// have been put in their place.
func TestSignIn_CredsExpire(t *testing.T) {
	fleet := newOperator(t)
	s := startServer(t, fleet.configure)
	path := write(t, "alice.creds", fleet.creds(t, 2*time.Second))
	alice := newTransport(t, configOf(t, []*server.Server{s}, map[string]any{"creds": path}))
	l := listenAs(t, alice, "alice")
	a, b := connect(t, alice, l)
	mustTalk(t, a, b)
	if err := os.WriteFile(path, []byte(fleet.creds(t, time.Hour)), 0o600); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, "the connection to the NATS server ended", a, b)
	a, b = connect(t, alice, l)
	mustTalk(t, a, b)
}

// newUser returns a user's public key and seed.
func newUser(t *testing.T) (public, seed string) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err = key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public, string(raw)
}

// operator signs accounts, one here, whose key signs users.
type operator struct {
	claims  *jwt.OperatorClaims
	account nkeys.KeyPair
	public  string // key of the account
	signed  string // the account
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := nkeys.CreateOperator()
	check(err)
	public, err := key.PublicKey()
	check(err)
	text, err := jwt.NewOperatorClaims(public).Encode(key)
	check(err)
	o := &operator{}
	o.claims, err = jwt.DecodeOperatorClaims(text)
	check(err)
	o.account, err = nkeys.CreateAccount()
	check(err)
	o.public, err = o.account.PublicKey()
	check(err)
	o.signed, err = jwt.NewAccountClaims(o.public).Encode(key)
	check(err)
	return o
}

func (o *operator) configure(options *server.Options) {
	resolver := &server.MemAccResolver{}
	_ = resolver.Store(o.public, o.signed) // in memory
	options.TrustedOperators, options.AccountResolver = []*jwt.OperatorClaims{o.claims}, resolver
}

// creds returns the file of a new user that is good for so long.
func (o *operator) creds(t *testing.T, life time.Duration) string {
	t.Helper()
	public, seed := newUser(t)
	claims := jwt.NewUserClaims(public)
	claims.Expires = time.Now().Add(life).Unix()
	token, err := claims.Encode(o.account)
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(token, []byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	return string(file)
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	path string // of its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.path = write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue returns the files of a certificate and its key.
func (a *authority) issue(t *testing.T) (certPath, keyPath string) {
	t.Helper()
	cert, key := a.sign(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))),
		write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func TestTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	certPath, keyPath := ours.issue(t)
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	serve := func(t *testing.T, auth tls.ClientAuthType) *server.Server {
		return startServer(t, func(o *server.Options) {
			o.TLS, o.TLSTimeout = true, 5
			o.TLSVerify = auth == tls.RequireAndVerifyClientCert
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: auth, ClientCAs: pool}
		})
	}
	t.Run("server", func(t *testing.T) {
		s := serve(t, tls.NoClientCert)
		works(t, s, map[string]any{"ca": ours.path})
		works(t, s, map[string]any{"ca": ours.path, "servers": []string{"nats://" + s.Addr().String()}})
		refused(t, s, nil, "name its file in ca")
		refused(t, s, map[string]any{"ca": others.path}, "name its file in ca")
	})
	t.Run("both", func(t *testing.T) {
		s := serve(t, tls.RequireAndVerifyClientCert)
		cert, key := ours.issue(t)
		works(t, s, map[string]any{"ca": ours.path, "cert": cert, "key": key})
		refused(t, s, map[string]any{"ca": ours.path}, "name its files in cert and key")
		cert, key = others.issue(t)
		refused(t, s, map[string]any{"ca": ours.path, "cert": cert, "key": key}, "cert and key")
	})
	t.Run("a server without", func(t *testing.T) {
		s := startServer(t, nil)
		refused(t, s, map[string]any{"ca": ours.path}, "offer no TLS")
		refused(t, s, map[string]any{"servers": []string{"tls://" + s.Addr().String()}}, "offer no TLS")
	})
}

// TestPermissions wants what a user may not do to be named.
func TestPermissions(t *testing.T) {
	allow := func(publish, subscribe []string) *server.Permissions {
		return &server.Permissions{Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe}}
	}
	s := startServer(t, func(o *server.Options) {
		for name, p := range map[string]*server.Permissions{
			// What docs/fleet.md says that a device needs.
			"alice": allow([]string{"starling.dial.*", "starling.inbox.>"}, []string{"starling.dial.alice", "starling.inbox.alice.*"}),
			"bob":   allow([]string{"starling.dial.*", "starling.inbox.>"}, []string{"starling.dial.bob", "starling.inbox.bob.*"}),
			"mute":  allow([]string{"nothing"}, []string{"starling.>"}),
			"deaf":  allow([]string{"starling.>"}, []string{"nothing"}),
			"half":  allow([]string{"starling.dial.*"}, []string{"starling.>"}),
		} {
			o.Users = append(o.Users, &server.User{Username: name, Password: "sesame", Permissions: p})
		}
	})
	device := func(t *testing.T, name string) *transport {
		return newTransport(t, configOf(t, []*server.Server{s}, map[string]any{"user": name, "password": "sesame", "inbox": "starling.inbox." + name}))
	}
	alice, bob := device(t, "alice"), device(t, "bob")
	l := listenAs(t, alice, "alice")
	a, b := connect(t, bob, l)
	mustTalk(t, a, b)
	t.Run("another's name", func(t *testing.T) {
		_, err := bob.Listen(t.Context(), "alice", nil)
		if sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), "subscribe to starling.dial.alice") {
			t.Errorf("%s: %v", sdk.CodeOf(err), err)
		}
	})
	for name, want := range map[string]string{"mute": "publish to starling.dial.alice", "deaf": "subscribe to starling.inbox.deaf.", "half": "publish to starling.inbox."} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := device(t, name).Dial(ctx, "alice")
			if sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, got %s: %v", want, sdk.CodeOf(err), err)
			}
		})
	}
	t.Run("what is heard elsewhere", func(t *testing.T) {
		// bob's permissions let him hear nothing of what goes on between others.
		spy := device(t, "bob")
		life, err := spy.fabric.life(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		for _, subject := range []string{"starling.>", "starling.inbox.*.*", "starling.inbox.alice.*"} {
			denied := make(chan error, 1)
			defer life.concern(subject, func(err error) { denied <- err })()
			if _, err := life.nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			if err := <-denied; err == nil {
				t.Errorf("bob may listen to %s", subject)
			}
		}
	})
}

// TestSettings wants each mistake to be named by its setting, and no secret in the words.
func TestSettings(t *testing.T) {
	_, seed := newUser(t)
	fleet := newOperator(t)
	dir := t.TempDir()
	t.Chdir(dir) // relative paths start from the working directory
	for name, text := range map[string]string{
		"good.creds": fleet.creds(t, time.Hour), "good.nk": seed, "bad.creds": "nothing", "bad.nk": "SUnonsense", "bad.pem": "nothing",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := newAuthority(t).issue(t)
	const servers = `"servers": ["nats://hub:4222"]`
	for _, each := range []struct{ config, want string }{
		{`{` + servers + `}`, ""},
		{`{"servers": ["nats://a:4222", "tls://b"], "subject": "starling.home", "inbox": "x.y", "discover": false}`, ""},
		{`{"servers": ["wss://a", "ws://b"], "creds": "good.creds"}`, ""},
		{`{` + servers + `, "nkey": "./good.nk"}`, ""},
		{`{` + servers + `, "user": "u", "password": "p"}`, ""},
		{fmt.Sprintf(`{`+servers+`, "cert": %q, "key": %q}`, cert, key), ""},
		{`{}`, "servers: it is missing"},
		{`{"servers": []}`, "servers: no NATS server is named"},
		{`{"servers": "nats://a"}`, "servers: want a list"},
		{`{"servers": [1]}`, "servers: item 1: want text"},
		{`{"servers": ["hub:4222"]}`, "servers: "},
		{`{"servers": ["http://hub"]}`, `servers: "http://hub" is not`},
		{`{"servers": ["nats://u:sesame@hub"]}`, "servers: nats://u:xxxxx@hub holds a user"},
		{`{"servers": ["nats://u:sesame@hub:port"]}`, "servers: an item is no URL"},
		{`{"servers": ["nats://a", "ws://b"]}`, "servers: WebSocket"},
		{`{` + servers + `, "server": "x"}`, `unknown setting "server"; did you mean "servers"?`},
		{`{` + servers + `, "subject": "a..b"}`, `subject: "a..b" is no name`},
		{`{` + servers + `, "subject": "a.>"}`, `subject: "a.>" is no name`},
		{`{` + servers + `, "inbox": "a b"}`, `inbox: "a b" is no name`},
		{`{` + servers + `, "subject": 7}`, "subject: want text"},
		{`{` + servers + `, "discover": "no"}`, "discover: want true or false"},
		{`{` + servers + `, "user": "u"}`, "user: password is missing"},
		{`{` + servers + `, "password": "sesame"}`, "password: user is missing"},
		{`{` + servers + `, "user": "u", "password": ""}`, "password: it is empty"},
		{`{` + servers + `, "token": "sesame", "creds": "good.creds"}`, "creds: token, creds are different ways"},
		{`{` + servers + `, "creds": "none.creds"}`, "creds: none.creds: no such file"},
		{`{` + servers + `, "creds": "bad.creds"}`, "creds: bad.creds does not hold"},
		{`{` + servers + `, "nkey": "none.nk"}`, "nkey: none.nk: no such file"},
		{`{` + servers + `, "nkey": "bad.nk"}`, "nkey: bad.nk holds no seed"},
		{`{` + servers + `, "ca": "none.pem"}`, "ca: none.pem: no such file"},
		{`{` + servers + `, "ca": "bad.pem"}`, "ca: bad.pem holds no certificate"},
		{`{` + servers + `, "cert": "bad.pem"}`, "cert: key is missing"},
		{`{` + servers + `, "key": "bad.pem"}`, "key: cert is missing"},
		{`{` + servers + `, "cert": "bad.pem", "key": "bad.pem"}`, "cert: bad.pem"},
		{`[]`, "not an object"},
	} {
		t.Run(each.config, func(t *testing.T) {
			_, err := parseSettings([]byte(each.config))
			switch {
			case each.want == "" && err != nil:
				t.Error(err)
			case each.want != "" && (sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), each.want)):
				t.Errorf("want %q, got %s: %v", each.want, sdk.CodeOf(err), err)
			case strings.HasPrefix(each.want, "subject: ") && strings.Contains(err.Error(), "inbox"):
				t.Errorf("a setting that is not there is wrong: %v", err)
			case err != nil && (strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "SUnonsense")):
				t.Errorf("a secret is in: %v", err)
			}
		})
	}
	t.Run("names", func(t *testing.T) {
		device := newTransport(t, []byte(`{`+servers+`}`))
		for _, name := range []string{"", "a b", "a.", "*", "a.>", "host:7420", strings.Repeat("x", 129)} {
			if _, err := device.Listen(t.Context(), name, nil); sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("listen as %q: %v", name, err)
			}
			if _, err := device.Dial(t.Context(), name); sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("dial %q: %v", name, err)
			}
		}
	})
}
