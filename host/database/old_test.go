package database_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestOpen_oldServer wants a server that is too old named as that, also one that knows less than what a session is begun with,
// and so refuses it before it can be asked for its version.
func TestOpen_oldServer(t *testing.T) {
	for name, tc := range map[string]struct {
		server oldServer
		want   string
		code   sdk.Code
	}{
		"knows all":      {oldServer{number: "130023", name: "13.23"}, "the server is PostgreSQL 13.23; this host needs 14 or later: upgrade the server", sdk.CodeUnsupported},
		"knows less":     {oldServer{number: "130023", name: "13.23", lacks: "idle_session_timeout"}, "the server is PostgreSQL 13.23; this host needs 14 or later: upgrade the server", sdk.CodeUnsupported},
		"of the dsn":     {oldServer{number: "140000", name: "14.0", lacks: "jit"}, "the server does not take a parameter of the dsn", sdk.CodeInvalid},
		"says no number": {oldServer{number: "many", name: "14.0", lacks: "jit"}, "the server does not take a parameter of the dsn", sdk.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			folder := databasetest.ShortFolder(t)
			tc.server.listen(t, filepath.Join(folder, ".s.PGSQL.5432"))
			dsn := "postgres://starling@/postgres?host=" + strings.ReplaceAll(folder, "/", "%2F") + "&sslmode=disable"
			db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &database.Postgres{DSN: dsn}})
			if err == nil {
				_ = db.Close()
				t.Fatal("it opens")
			}
			if sdk.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %s: %v, want %s: %s", sdk.CodeOf(err), err, tc.code, tc.want)
			}
		})
	}
}

// oldServer answers as a server of a version does, as far as that it is asked for its version.
type oldServer struct {
	number, name string // of the version
	lacks        string // a setting that it does not know
}

// listen answers who connects to a socket, until the test ends.
func (s oldServer) listen(tb testing.TB, socket string) {
	tb.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close() //nolint:errcheck // the client ends it
				s.serve(conn)
			})
		}
	})
	tb.Cleanup(func() { _ = listener.Close(); serving.Wait() })
}

// serve speaks version 3 of PostgreSQL's protocol with one client: "Message Formats" in its documentation.
func (s oldServer) serve(conn net.Conn) {
	in := bufio.NewReader(conn)
	startup, err := message(in)
	if err != nil {
		return
	}
	if settings := strings.Split(string(startup), "\x00"); s.lacks != "" && slices.Contains(settings, s.lacks) {
		_, _ = conn.Write(framed('E', "SFATAL\x00VFATAL\x00C42704\x00Munrecognized configuration parameter \""+s.lacks+"\"\x00\x00"))
		return
	}
	ready := framed('Z', "I")
	_, err = conn.Write(append(framed('R', "\x00\x00\x00\x00"), ready...)) // no password is wanted
	for err == nil {
		var kind byte
		if kind, err = in.ReadByte(); err != nil {
			return
		}
		var query []byte
		if query, err = message(in); err != nil || kind != 'Q' {
			return
		}
		values := []string{s.number, s.name, "UTF8", "on", "0"}[:1+strings.Count(string(query), ",")]
		var answer []byte
		columns, row := counted(len(values)), counted(len(values))
		for _, value := range values {
			columns += "c\x00" + strings.Repeat("\x00", 6) + "\x00\x00\x00\x19" + strings.Repeat("\x00", 8) // of type text, as text
			row += string(binary.BigEndian.AppendUint32(nil, uint32(len(value)))) + value                   //nolint:gosec // short
		}
		answer = append(answer, framed('T', columns)...)
		answer = append(answer, framed('D', row)...)
		answer = append(answer, framed('C', "SELECT 1\x00")...)
		_, err = conn.Write(append(answer, ready...))
	}
}

func counted(n int) string { return string([]byte{0, byte(n)}) } //nolint:gosec // of a few

// framed returns a message: its kind, the length of what follows, and that.
func framed(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...) //nolint:gosec // short
}

// message reads what follows a message's kind.
func message(in *bufio.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(length[:])-4)
	_, err := io.ReadFull(in, body)
	return body, err
}
