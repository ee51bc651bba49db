package database_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// authority issues certificates.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte // of cert
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb}
	a.cert, a.key, a.pem, _ = a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, time.Now().Add(time.Hour))
	return a
}

// issue returns a certificate for names of hosts, or of the role name, and its key.
func (a *authority) issue(name string, until time.Time, hosts ...string) (cert, key []byte) {
	a.tb.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	_, _, cert, key = a.make(template, until)
	return cert, key
}

func (a *authority) make(template *x509.Certificate, until time.Time) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-24*time.Hour), until
	parent, signer := template, key // itself
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.tb.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		a.tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// keep writes a file that nobody but its owner can read.
func keep(tb testing.TB, content []byte) (path string) {
	tb.Helper()
	f, err := os.CreateTemp(tb.TempDir(), "*.pem")
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	return f.Name()
}

// rolePassword has characters that a URL must encode.
const rolePassword = "s3cret/ %&@:?#"

// access lets roles in over TLS alone: certified with a certificate of its own, the others with a password.
const access = `
local   all all       trust
hostssl all certified 127.0.0.1/32 cert
hostssl all all       127.0.0.1/32 scram-sha-256
`

// startTLS starts a server whose certificate is good for 127.0.0.1 and localhost, until a time.
func startTLS(t *testing.T, a *authority, until time.Time) *databasetest.Server {
	t.Helper()
	cert, key := a.issue("server", until, "127.0.0.1", "localhost")
	server := databasetest.StartTCP(t, map[string][]byte{"server.crt": cert, "server.key": key, "root.crt": a.pem, "pg_hba.conf": []byte(access)},
		"ssl=on", "ssl_ca_file=root.crt", "password_encryption=scram-sha-256")
	for _, role := range []string{"device", "certified"} {
		if err := server.Exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD '"+rolePassword+"'"); err != nil {
			t.Fatal(err)
		}
		if err := server.Exec(t, "GRANT CREATE ON DATABASE postgres TO "+role); err != nil {
			t.Fatal(err)
		}
	}
	return server
}

// dsnOf returns the connection string of a role at a host and port, with parameters as NAME=VALUE.
func dsnOf(role, password, host string, port int, parameters ...string) string {
	query := make(url.Values)
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		query.Set(name, value)
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: fmt.Sprintf("%s:%d", host, port), Path: "/postgres", RawQuery: query.Encode()}
	return u.String()
}

// TestOpen_TLS has a server be reached over TCP, with a password and with a certificate, and refused for each thing that may be
// wrong with it: the message says which, and shows no password.
func TestOpen_TLS(t *testing.T) {
	a := newAuthority(t)
	server, stale := startTLS(t, a, time.Now().Add(time.Hour)), startTLS(t, a, time.Now().Add(-time.Hour))
	port := server.Port()
	trusted, other := "sslrootcert="+keep(t, a.pem), "sslrootcert="+keep(t, newAuthority(t).pem)
	certPEM, keyPEM := a.issue("certified", time.Now().Add(time.Hour))
	cert, key := "sslcert="+keep(t, certPEM), "sslkey="+keep(t, keyPEM)
	open := keep(t, keyPEM)
	if err := os.Chmod(open, 0o644); err != nil { //nolint:gosec // the mistake that is to be found
		t.Fatal(err)
	}
	absent := filepath.Join(t.TempDir(), "absent.crt")
	device := func(host string, parameters ...string) string {
		return dsnOf("device", rolePassword, host, port, parameters...)
	}
	full, ca := "sslmode=verify-full", "sslmode=verify-ca"
	for name, tc := range map[string]struct{ dsn, want string }{
		"by address":              {device("127.0.0.1", full, trusted), ""},
		"by name":                 {device("localhost", full, trusted), ""},
		"an authority, no name":   {device("db.example", "hostaddr=127.0.0.1", ca, trusted), ""},
		"encrypted alone":         {device("127.0.0.1", "sslmode=require"), ""},
		"a certificate":           {dsnOf("certified", "", "localhost", port, full, trusted, cert, key), ""},
		"no sslmode":              {device("localhost", trusted), "does not say sslmode"},
		"another authority":       {device("localhost", full, other), "not trusted here; name the authority's certificate"},
		"another authority, ca":   {device("localhost", ca, other), "not trusted here; name the authority's certificate"},
		"the system's alone":      {device("localhost", full), "not trusted here; name the authority's certificate"},
		"another name":            {device("db.example", "hostaddr=127.0.0.1", full, trusted), "not for db.example; name the server"},
		"expired":                 {dsnOf("device", rolePassword, "localhost", stale.Port(), full, trusted), "has expired"},
		"no such file":            {device("localhost", full, "sslrootcert="+absent), "the file " + absent + " for TLS can not be read"},
		"no such file, unasked":   {device("127.0.0.1", "sslmode=require", "sslrootcert="+absent), "the file " + absent + " for TLS can not be read"},
		"no such certificate":     {dsnOf("certified", "", "localhost", port, full, trusted, "sslcert="+absent, key), "the file " + absent + " for TLS can not be read"},
		"not encrypted":           {device("localhost", "sslmode=disable"), "with the dsn's sslmode (disable)"},
		"no certificate":          {dsnOf("certified", "", "localhost", port, full, trusted), "let the role certified in"},
		"a certificate of others": {dsnOf("device", "", "localhost", port, full, trusted, cert, key), "does not let the role device in: the password is wrong"},
		"a key that all can read": {dsnOf("certified", "", "localhost", port, full, trusted, cert, "sslkey="+open), "chmod 0600"},
		"a wrong password":        {dsnOf("device", rolePassword+"1", "localhost", port, full, trusted), "the password is wrong, or there is no such role"},
		"no such role":            {dsnOf("nobody", rolePassword, "localhost", port, full, trusted), "does not let the role nobody in: the password is wrong, or there is no such role"},
		"a wrong parameter":       {device("localhost", full, trusted, "work_memory=1"), "does not take a parameter of the dsn"},
		"a wrong value":           {device("localhost", full, trusted, "work_mem=much"), "does not take a parameter of the dsn"},
		"no database":             {strings.Replace(device("localhost", full, trusted), "/postgres?", "/nothing?", 1), "there is no database nothing; make it there with: createdb nothing"},
		"no server":               {dsnOf("device", rolePassword, "127.0.0.1", 1, full, trusted), "nothing listens there; see that the server runs"},
		"no such host":            {device("nowhere.invalid", full, trusted), "nowhere.invalid"},
		"no TLS there":            {dsnOf("starling", "", "127.0.0.1", databasetest.StartTCP(t, nil).Port(), "sslmode=require"), "offers no TLS, which sslmode=require wants"},
		"no socket":               {"postgres://device@/postgres?host=" + url.QueryEscape(t.TempDir()) + "&sslmode=disable", "no socket of a server in this folder"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &database.Postgres{DSN: tc.dsn, Schema: databasetest.Shared(t).Schema().Schema}})
			if err == nil {
				err = readOne(db)
				if closing := db.Close(); closing != nil {
					t.Error(closing)
				}
			}
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %q", err, tc.want)
			case err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "does not answer") || strings.Count(err.Error(), "PostgreSQL at") > 1):
				t.Errorf("it shows the password, is not what it says, or says it twice: %v", err)
			case err != nil && sdk.CodeOf(err) == sdk.CodeInternal:
				t.Errorf("code %s: %v", sdk.CodeOf(err), err)
			default:
				t.Log(err)
			}
		})
	}
}

// TestOutage_certificateChanged changes what this host needs to connect while the server is at something that takes long: it is at it
// all the same.
func TestOutage_certificateChanged(t *testing.T) {
	a := newAuthority(t)
	trusted := keep(t, a.pem)
	db := openAt(t, &database.Postgres{
		DSN:    dsnOf("device", rolePassword, "localhost", startTLS(t, a, time.Now().Add(time.Hour)).Port(), "sslmode=verify-full", "sslrootcert="+trusted),
		Schema: "device", Patience: time.Second,
	}, nil)
	if err := os.WriteFile(trusted, newAuthority(t).pem, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), func(tx *database.Tx) error { return tx.Run("SELECT pg_sleep(4)") }); err != nil {
		t.Error(err)
	}
}

// TestOutage_TLS has the server killed, and then the network swallow all that is sent, where the connection is one of TCP and TLS.
func TestOutage_TLS(t *testing.T) {
	a := newAuthority(t)
	server := startTLS(t, a, time.Now().Add(time.Hour))
	r, port := newTCPRelay(t, fmt.Sprintf("127.0.0.1:%d", server.Port()))
	db := openAt(t, &database.Postgres{
		DSN:    dsnOf("device", rolePassword, "localhost", port, "hostaddr=127.0.0.1", "sslmode=verify-full", "sslrootcert="+keep(t, a.pem), "connect_timeout=2"),
		Schema: "device", Patience: time.Second,
	}, nil)
	l := newLedger(t, db)
	for what, fail := range map[string][2]func(){
		"killed": {func() { server.Kill(t) }, func() { server.Restart(t) }},
		"silent": {func() { r.frozen.Store(true) }, func() { r.frozen.Store(false) }},
	} {
		fail[0]()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := l.write(db); sdk.CodeOf(err) != sdk.CodeUnavailable || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("%s: a write: %v", what, err)
				}
			})
		}
		wg.Wait()
		eventually(t, what+": the outage shows", func() bool { return db.Outage() != nil })
		if outage := db.Outage(); outage != nil && strings.Contains(outage.Cause.Error(), "PostgreSQL at") {
			t.Errorf("%s: the cause says where that is once more: %v", what, outage.Cause)
		}
		fail[1]()
		eventually(t, what+": the outage ends", func() bool { return db.Outage() == nil })
		if err := l.write(db); err != nil {
			t.Errorf("%s: a write afterwards: %v", what, err)
		}
	}
	l.check(t, db)
	err := db.Read(context.Background(), func(tx *database.Tx) error {
		var encrypted, version []byte
		_, err := tx.One("SELECT ssl::text::bytea, version::bytea FROM pg_stat_ssl WHERE pid = pg_backend_pid()", nil, &encrypted, &version)
		if err == nil && (!bytes.Equal(encrypted, []byte("true")) || !bytes.HasPrefix(version, []byte("TLSv1."))) {
			t.Errorf("the connection is encrypted: %s, with %s", encrypted, version)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
