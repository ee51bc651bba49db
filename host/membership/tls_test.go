package membership

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
)

func testIdentity(t *testing.T, name string) *Identity {
	t.Helper()
	identity, err := NewIdentity(random(name))
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// handshake connects two ends and returns what each saw. A client's handshake ends before the server has looked at the
// client's key, so both ends then exchange one byte.
func handshake(t *testing.T, client, server *tls.Config) (clientEnd, serverEnd *tls.Conn, clientErr, serverErr error) {
	t.Helper()
	a, b := loopback(t) // not net.Pipe, where two ends that both write for an alert wait for each other
	clientEnd, serverEnd = tls.Client(a, client), tls.Server(b, server)
	done := make(chan error)
	go func() {
		err := serverEnd.Handshake()
		if err == nil {
			_, err = serverEnd.Write([]byte{1})
		}
		b.Close() // whatever happened, the client must not wait
		done <- err
	}()
	if clientErr = clientEnd.Handshake(); clientErr == nil {
		_, clientErr = clientEnd.Read(make([]byte, 1))
	}
	a.Close()
	return clientEnd, serverEnd, clientErr, <-done
}

func loopback(t *testing.T) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

func TestTLS_BothEndsKnown(t *testing.T) {
	alice, bob := testIdentity(t, "alice"), testIdentity(t, "bob")
	c, s, clientErr, serverErr := handshake(t, bob.ClientTLS(alice.ID()), alice.ServerTLS())
	if clientErr != nil || serverErr != nil {
		t.Fatalf("client: %v, server: %v", clientErr, serverErr)
	}
	if got, err := bob.PeerID(c.ConnectionState()); err != nil || got != alice.ID() {
		t.Errorf("the client met %s, %v; want %s", got, err, alice.ID())
	}
	if got, err := alice.PeerID(s.ConnectionState()); err != nil || got != bob.ID() {
		t.Errorf("the server met %s, %v; want %s", got, err, bob.ID())
	}
	if key, err := PeerKey(s.ConnectionState()); err != nil || !key.Equal(bob.PublicKey()) {
		t.Errorf("the server saw key %x, %v", key, err)
	}
	if state := c.ConnectionState(); state.Version != tls.VersionTLS13 || state.DidResume || state.NegotiatedProtocol != ALPN {
		t.Errorf("version %x, resumed %v, protocol %q", state.Version, state.DidResume, state.NegotiatedProtocol)
	}
}

func TestTLS_Refuses(t *testing.T) {
	alice, bob, carol := testIdentity(t, "alice"), testIdentity(t, "bob"), testIdentity(t, "carol")
	change := func(config *tls.Config, f func(*tls.Config)) *tls.Config {
		f(config)
		return config
	}
	tests := map[string]struct {
		client, server *tls.Config
		want           string
	}{
		"another device answers": {bob.ClientTLS(carol.ID()), alice.ServerTLS(), "not " + carol.ID().String()},
		"nobody in particular":   {bob.ClientTLS(sdk.DeviceID{}), alice.ServerTLS(), "not 00000000"},
		"a TLS 1.2 client": {
			change(bob.ClientTLS(alice.ID()), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), //nolint:gosec // the point
			alice.ServerTLS(), "protocol version",
		},
		"a TLS 1.2 server": {
			bob.ClientTLS(alice.ID()),
			change(alice.ServerTLS(), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), //nolint:gosec // the point
			"protocol version",
		},
		"a client without a key": {
			change(bob.ClientTLS(alice.ID()), func(c *tls.Config) { c.Certificates = nil }),
			alice.ServerTLS(), "certificate",
		},
		"a client of another protocol": {
			change(bob.ClientTLS(alice.ID()), func(c *tls.Config) { c.NextProtos = []string{"h2"} }),
			alice.ServerTLS(), "application protocol",
		},
		"a client of no protocol": {
			change(bob.ClientTLS(alice.ID()), func(c *tls.Config) { c.NextProtos = nil }),
			alice.ServerTLS(), "does not speak",
		},
		"a key that is not Ed25519": {
			change(bob.ClientTLS(alice.ID()), func(c *tls.Config) { c.Certificates = []tls.Certificate{otherCertificate(t)} }),
			alice.ServerTLS(), "not an Ed25519 key",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, clientErr, serverErr := handshake(t, test.client, test.server)
			if clientErr == nil {
				t.Error("the client went on")
			}
			all := ""
			for _, err := range []error{clientErr, serverErr} {
				if err != nil {
					all += err.Error() + "; "
				}
			}
			if !strings.Contains(all, test.want) {
				t.Errorf("errors %q; want %q", all, test.want)
			}
		})
	}
}

func otherCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
