package database_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// eventually waits until what holds, or fails.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late.C:
			tb.Fatalf("never came about: %s", what)
		}
	}
}

func openAt(tb testing.TB, at *database.Postgres, log hclog.Logger) *database.DB {
	tb.Helper()
	db, err := database.Open(context.Background(), database.Options{Dir: tb.TempDir(), Postgres: at, Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

// ledger is what writers were told.
type ledger struct {
	mu    sync.Mutex // guards what follows
	acked map[int]bool
	gone  map[int]bool // told that nothing was kept
	after map[int]bool // AfterCommit was called
	next  int

	unknown map[int]bool // told that nobody knows
}

func (l *ledger) write(db *database.DB) error {
	l.mu.Lock()
	l.next++
	n := l.next
	l.mu.Unlock()
	err := db.Write(context.Background(), func(tx *database.Tx) error {
		tx.AfterCommit(func() { l.mu.Lock(); l.after[n] = true; l.mu.Unlock() })
		_, err := tx.Exec("INSERT INTO t (n) VALUES (?)", n)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked[n] = true
	case strings.Contains(err.Error(), "it is not known"): // the server was away for half a minute
		l.unknown[n] = true
	default:
		l.gone[n] = true
	}
	return err
}

func newLedger(tb testing.TB, db *database.DB) *ledger {
	tb.Helper()
	if err := db.Write(tb.Context(), func(tx *database.Tx) error { return tx.Run("CREATE TABLE t (n BIGINT PRIMARY KEY)") }); err != nil {
		tb.Fatal(err)
	}
	return &ledger{acked: make(map[int]bool), gone: make(map[int]bool), after: make(map[int]bool), unknown: make(map[int]bool)}
}

// check wants what the database holds to be what writers were told.
func (l *ledger) check(tb testing.TB, db *database.DB) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	there := make(map[int]bool)
	err := db.Read(tb.Context(), func(tx *database.Tx) error {
		rows, err := tx.Query("SELECT n FROM t")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n int
			if err := rows.Scan(&n); err != nil {
				return err
			}
			there[n] = true
		}
		return rows.Err()
	})
	if err != nil {
		tb.Fatal(err)
	}
	for n := 1; n <= l.next; n++ {
		if there[n] != l.after[n] || !l.unknown[n] && (there[n] != l.acked[n] || there[n] == l.gone[n]) {
			tb.Errorf("write %d: acknowledged %v, told that it was not kept %v, what follows it was done %v, and there %v", n, l.acked[n], l.gone[n], l.after[n], there[n])
		}
	}
}

// TestOutage_killedServer kills the server as a crash does, again and again, while several write.
func TestOutage_killedServer(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	l := newLedger(t, db)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var acked, refused atomic.Int64
	for range 4 {
		wg.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				switch err := l.write(db); {
				case err == nil:
					acked.Add(1)
				case sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "PostgreSQL at "):
					t.Errorf("a write in an outage: %v", err)
					return
				default:
					refused.Add(1)
				}
			}
		})
	}
	for range rounds {
		before := acked.Load()
		eventually(t, "writes go on", func() bool { return acked.Load() > before+20 })
		before = refused.Load()
		server.Kill(t)
		eventually(t, "writes are refused", func() bool { return refused.Load() > before })
		eventually(t, "the outage shows", func() bool { return db.Outage() != nil })
		if err := readOne(db); sdk.CodeOf(err) != sdk.CodeUnavailable || !database.Away(err) {
			t.Errorf("a read in an outage: %v", err)
		}
		server.Restart(t)
		eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
		if err := readOne(db); err != nil {
			t.Errorf("a read after an outage: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	l.check(t, db)
	t.Logf("%d writes were acknowledged and %d refused in %d crashes", acked.Load(), refused.Load(), rounds)
}

// TestOutage_idle has nothing but reads notice that the server was restarted.
func TestOutage_idle(t *testing.T) {
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	server.Kill(t)
	if err := readOne(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a read in an outage: %v", err)
	}
	if db.Outage() == nil {
		t.Error("nobody noticed")
	}
	server.Restart(t)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	server.Kill(t)
	server.Restart(t)
	for range 8 { // each reader's connection is gone
		if err := readOne(db); err != nil {
			t.Errorf("a read after a restart that nobody noticed: %v", err)
		}
	}
}

// TestOutage_whileReading has a read be under way when the connections break, and end while the writer's is made again. What it
// could get wrong, the race detector sees.
func TestOutage_whileReading(t *testing.T) {
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	l := newLedger(t, db)
	reading, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		err := db.Read(context.Background(), func(*database.Tx) error { close(reading); <-release; return nil })
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a read whose connection broke: %v", err)
		}
	}()
	<-reading
	server.Kill(t)
	_ = l.write(db)
	close(release)
	<-ended
	server.Restart(t)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := readOne(db); err != nil {
		t.Error(err)
	}
}

// TestOutage_closed closes the database in an outage.
func TestOutage_closed(t *testing.T) {
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	server.Kill(t)
	nothing := func(tx *database.Tx) error { _, err := tx.Exec("DELETE FROM _meta"); return err }
	if err := db.Write(t.Context(), nothing); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a write in an outage: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// relay stands between a host and the server, and can end a connection in the midst of a commit.
type relay struct {
	tb       testing.TB
	listener net.Listener
	folder   string
	frozen   atomic.Bool // nothing passes, and nothing is closed
	by       string      // network of both ends

	mu     sync.Mutex // guards what follows
	server string     // address
	cut    string     // what becomes of the next commit: "", "before", "after" or "held"
	held   func()     // passes on what was held
	ending []io.Closer
	wg     sync.WaitGroup
}

func newRelay(tb testing.TB, server *databasetest.Server) (*relay, *database.Postgres) {
	tb.Helper()
	at := server.Schema()
	r := &relay{tb: tb, folder: databasetest.ShortFolder(tb), server: filepath.Join(server.Socket(), ".s.PGSQL.5432"), by: "unix"}
	r.serveAt(filepath.Join(r.folder, ".s.PGSQL.5432"))
	at.DSN = strings.ReplaceAll(at.DSN, strings.ReplaceAll(server.Socket(), "/", "%2F"), strings.ReplaceAll(r.folder, "/", "%2F"))
	return r, at
}

// newTCPRelay stands before a server at an address. The relay's own is port, on 127.0.0.1.
func newTCPRelay(tb testing.TB, address string) (r *relay, port int) {
	tb.Helper()
	r = &relay{tb: tb, server: address, by: "tcp"}
	r.serveAt("127.0.0.1:0")
	return r, r.listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
}

// serveAt relays who connects to an address, until the test ends.
func (r *relay) serveAt(address string) {
	tb := r.tb
	tb.Helper()
	listener, err := net.Listen(r.by, address)
	if err != nil {
		tb.Fatal(err)
	}
	r.listener = listener
	r.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		_ = r.listener.Close()
		r.mu.Lock()
		for _, c := range r.ending {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
}

func (r *relay) set(cut string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
}

// cutOff ends every connection; those that follow go to another server.
func (r *relay) cutOff(server *databasetest.Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server = filepath.Join(server.Socket(), ".s.PGSQL.5432")
	for _, c := range r.ending {
		_ = c.Close()
	}
}

func (r *relay) serve(client net.Conn) {
	r.mu.Lock()
	at := r.server
	r.mu.Unlock()
	server, err := net.Dial(r.by, at)
	if err != nil {
		_ = client.Close()
		return
	}
	r.mu.Lock()
	r.ending = append(r.ending, client, server)
	r.mu.Unlock()
	var dropping atomic.Bool
	r.wg.Go(func() {
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil {
				_ = client.Close()
				return
			}
			if r.frozen.Load() {
				continue
			}
			if dropping.Load() { // the server has committed: its answer is lost
				_ = client.Close()
				_ = server.Close()
				return
			}
			_, _ = client.Write(buffer[:n])
		}
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			_ = server.Close()
			return
		}
		if r.frozen.Load() {
			continue
		}
		if bytes.Contains(buffer[:n], []byte("COMMIT\x00")) {
			r.mu.Lock()
			cut := r.cut
			r.cut = ""
			commit := bytes.Clone(buffer[:n])
			if cut == "held" {
				r.held = func() { _, _ = server.Write(commit) }
			}
			r.mu.Unlock()
			switch cut {
			case "before":
				_ = client.Close()
				_ = server.Close()
				return
			case "after":
				dropping.Store(true)
				_, _ = server.Write(commit)
				return
			case "held":
				_ = client.Close()
				return
			}
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestOutage_inCommit ends the connection in commits, before the server has them and after, and wants each write to be told
// what became of it.
func TestOutage_inCommit(t *testing.T) {
	server := databasetest.Shared(t)
	r, at := newRelay(t, server)
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	for i := range 30 {
		cut := []string{"", "before", "after", "held"}[i%4]
		r.set(cut)
		err := l.write(db)
		if kept := cut == "" || cut == "after"; (err == nil) != kept {
			t.Errorf("cut %q: %v", cut, err)
		}
		eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
		r.mu.Lock()
		if r.held != nil {
			r.held() // the server hears of the old commit only now
			r.held = nil
		}
		r.mu.Unlock()
		if i%5 == 0 { // a write of its own between
			if err := l.write(db); err != nil {
				t.Error(err)
			}
		}
	}
	l.check(t, db)
}

// TestOutage_frozen has the server, or the network, say nothing any more without closing a connection.
func TestOutage_frozen(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Second
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	within := func(what string, fn func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { defer close(done); fn() }()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("%s: hangs", what)
		}
	}
	ask := func() {
		t.Helper()
		var wg sync.WaitGroup
		for what, fn := range map[string]func() error{
			"a read": func() error { return readOne(db) }, "a write": func() error { return l.write(db) }, "the size": func() error { _, err := db.Size(); return err },
		} {
			wg.Go(func() {
				if err := fn(); sdk.CodeOf(err) != sdk.CodeUnavailable || !database.Away(err) {
					t.Errorf("%s of a server that says nothing: %v", what, err)
				}
			})
		}
		within("what is asked of a server that says nothing", wg.Wait)
	}
	r.frozen.Store(true)
	ask()
	if db.Outage() == nil {
		t.Error("nobody noticed")
	}
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
	r.frozen.Store(true)
	within("closing", func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOutage_frozenInCommit has the server freeze in a commit: who waits is told that nobody knows, and where to look, and what the
// write wants to be called is not, as it was not kept after all.
func TestOutage_frozenInCommit(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Second
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	var freeze atomic.Bool
	db.BeforeCommit(func(*database.Tx) error { r.frozen.Store(freeze.Load()); return nil })
	freeze.Store(true)
	if err := l.write(db); !errors.Is(err, database.ErrUnknown) || sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "look when the server is back") {
		t.Errorf("a commit without an answer: %v", err)
	}
	if err := l.write(db); err == nil || errors.Is(err, database.ErrUnknown) || !strings.Contains(err.Error(), "nothing of this write was kept") {
		t.Errorf("a write that comes while the server is away: %v", err)
	}
	freeze.Store(false)
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
}

// TestOutage_doubt has a reader's connection end while the server says nothing: the writer's is looked after for a short time, however
// long the server may say nothing at other times.
func TestOutage_doubt(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Hour
	at.DSN += "&connect_timeout=1"
	db := openAt(t, at, nil)
	if _, err := db.Size(); err != nil { // leaves an idle connection, which a reader may be given
		t.Fatal(err)
	}
	r.mu.Lock()
	idle := len(r.ending) - 2 // of its first end
	r.mu.Unlock()
	r.frozen.Store(true)
	r.mu.Lock()
	for _, c := range r.ending[2:idle] { // both ends of each; the writer's are first
		_ = c.Close()
	}
	r.mu.Unlock()
	failed := make(chan error, 1)
	go func() { failed <- readOne(db) }()
	select {
	case err := <-failed:
		if sdk.CodeOf(err) != sdk.CodeUnavailable || db.Outage() == nil {
			t.Errorf("a read: %v; outage %v", err, db.Outage())
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits as long as for an answer at other times")
	}
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
}

// TestOutage_frozenLong has a server freeze amid what may take an hour, and another only take longer than a server may say nothing.
func TestOutage_frozenLong(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Second
	at.DSN += "&connect_timeout=1"
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	if err := db.Write(t.Context(), func(tx *database.Tx) error { return tx.Run("SELECT pg_sleep(3.5)") }); err != nil {
		t.Errorf("what takes long: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		done <- db.Write(context.Background(), func(tx *database.Tx) error {
			r.frozen.Store(true)
			return tx.Run("CREATE INDEX i ON t (n)")
		})
	}()
	select {
	case err := <-done:
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("what takes long, of a server that froze: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
	}
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
}

// TestOutage_closedFrozen closes the database while the server, of which much patience is had, says nothing.
func TestOutage_closedFrozen(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Hour
	db := openAt(t, at, nil)
	newLedger(t, db)
	begun := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := db.Write(context.Background(), func(tx *database.Tx) error {
			r.frozen.Store(true)
			close(begun)
			_, err := tx.Exec("INSERT INTO t (n) VALUES (1)")
			return err
		})
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a write: %v", err)
		}
	})
	<-begun
	wg.Go(func() {
		if err := readOne(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a read: %v", err)
		}
	})
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// TestOutage_otherServer has a server without this device's data answer for a while: nothing may be written there.
func TestOutage_otherServer(t *testing.T) {
	server, empty := databasetest.Shared(t), databasetest.Start(t)
	r, at := newRelay(t, server)
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	r.cutOff(empty)
	if err := l.write(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a write in an outage: %v", err)
	}
	eventually(t, "it is said what is wrong", func() bool {
		outage := db.Outage()
		return outage != nil && strings.Contains(outage.Cause.Error(), "does not have this device's data")
	})
	if err := empty.Exec(t, "CREATE SCHEMA "+at.Schema); err != nil {
		t.Errorf("it was written to the other server: %v", err)
	}
	r.cutOff(server)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
}

// TestOutage_another has another host use the database while this one is cut off from it.
func TestOutage_another(t *testing.T) {
	server := databasetest.Shared(t)
	r, at := newRelay(t, server)
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	other := *at
	other.DSN = server.DSN()
	_, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &other})
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "another host") {
		t.Fatalf("a second host: %v", err)
	}
	t.Log(err)
	_ = r.listener.Close() // nobody gets through
	r.mu.Lock()
	for _, c := range r.ending {
		_ = c.Close()
	}
	r.mu.Unlock()
	if err := l.write(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Fatalf("a write in an outage: %v", err)
	}
	second, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &other})
	if err != nil {
		t.Fatal(err)
	}
	r.serveAt(filepath.Join(r.folder, ".s.PGSQL.5432"))
	eventually(t, "it is said who has the database", func() bool {
		outage := db.Outage()
		return outage != nil && strings.Contains(outage.Cause.Error(), "another host")
	})
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	err = l.write(db)
	if err == nil || !strings.Contains(err.Error(), "another host has used this database meanwhile") {
		t.Errorf("a write after another host: %v", err)
	}
	l.check(t, db)
}

// TestOpenPatiently starts the server after the host.
func TestOpenPatiently(t *testing.T) {
	server := databasetest.Start(t)
	server.Kill(t)
	var log said
	asked := make(chan time.Time, 1000)
	options := database.Options{Dir: t.TempDir(), Postgres: server.Schema(), Log: hclog.New(&hclog.LoggerOptions{Output: &log})}
	options.Waiting = func(since time.Time, err error) error {
		if err == nil || !strings.Contains(err.Error(), "PostgreSQL at ") {
			t.Errorf("it does not say what is waited for: %v", err)
		}
		select {
		case asked <- since:
		default:
		}
		return nil
	}
	stopped, stop := context.WithCancel(t.Context())
	defer stop()
	for _, ctx := range []context.Context{stopped, t.Context()} {
		log.clear()
		done := make(chan error)
		go func() {
			db, err := database.OpenPatiently(ctx, options)
			if err == nil {
				err = db.Close()
			}
			done <- err
		}()
		eventually(t, "it says what it waits for", func() bool { return log.has("does not answer yet") && log.has("PostgreSQL at ") })
		if first, second := <-asked, <-asked; !first.Equal(second) {
			t.Errorf("since %s, then %s", first, second)
		}
		if _, err := database.Open(t.Context(), database.Options{Dir: options.Dir}); err == nil || !strings.Contains(err.Error(), "another host") {
			t.Errorf("a second host in its folder while it waits: %v", err)
		}
		if ctx == stopped {
			stop()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("a host that is stopped while it waits: %v", err)
			}
			continue
		}
		server.Restart(t)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestOpenPatiently_name has a name that is not known, as while the network is not up yet. That is waited for, until it is not.
func TestOpenPatiently_name(t *testing.T) {
	enough := errors.New("enough")
	tries := 0
	_, err := database.OpenPatiently(t.Context(), database.Options{
		Dir: t.TempDir(), Postgres: &database.Postgres{DSN: "postgres://u:s3cret@nobody.invalid/d?sslmode=disable"},
		Waiting: func(_ time.Time, err error) error {
			if text := err.Error(); !strings.Contains(text, "the name service tells no address of nobody.invalid now") || strings.Contains(text, "s3cret") {
				t.Error(err)
			}
			if tries++; tries == 2 {
				return enough
			}
			return nil
		},
	})
	if !errors.Is(err, enough) {
		t.Errorf("got %v after %d attempts", err, tries)
	}
}

// said is what was logged.
type said struct {
	mu   sync.Mutex // guards what follows
	text strings.Builder
}

func (s *said) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(text)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

func (s *said) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
}

// TestOpen_refusesServer wants a message that says what to do.
func TestOpen_refusesServer(t *testing.T) {
	server := databasetest.Shared(t)
	good := server.DSN()
	for name, tc := range map[string]struct {
		dsn, schema, want string
		code              sdk.Code
	}{
		"no server":    {"postgres://u:s3cret@127.0.0.1:1/d?sslmode=disable", "", "open PostgreSQL at 127.0.0.1:1, database d, schema starling: nothing listens there; see", sdk.CodeUnavailable},
		"no database":  {strings.Replace(good, "/postgres?", "/nothing?", 1), "", "there is no database nothing; make it there with: createdb nothing", sdk.CodeInvalid},
		"no such role": {strings.Replace(good, "starling@", "nobody:s3cret@", 1), "", "does not let the role nobody in", sdk.CodeInvalid},
		"a bad schema": {good, "public", "this device needs one of its own", sdk.CodeInvalid},
	} {
		if name != "no server" { // no use in trying again
			db, err := database.OpenPatiently(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &database.Postgres{DSN: tc.dsn, Schema: tc.schema}})
			if err == nil {
				t.Errorf("%s: it opens", name)
				_ = db.Close()
			}
		}
		_, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &database.Postgres{DSN: tc.dsn, Schema: tc.schema}})
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		} else if sdk.CodeOf(err) != tc.code {
			t.Errorf("%s: code %s, want %s", name, sdk.CodeOf(err), tc.code)
		}
	}
	_, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Durability: database.Normal, Postgres: server.Schema()})
	if sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("durability normal: %v", err)
	}
	latin := server.Exec(t, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
	if latin != nil {
		t.Fatal(latin)
	}
	_, err = database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &database.Postgres{DSN: strings.Replace(good, "/postgres?", "/latin?", 1)}})
	if sdk.CodeOf(err) != sdk.CodeUnsupported {
		t.Errorf("an encoding that lacks characters: %v", err)
	}
}

// TestOutage_openRows ends the connection while results are open, and wants whatever is asked next to say so at once, in a read
// and in a write. database/sql closes a connection of which it hears driver.ErrBadConn as soon as no result of it is open, and
// would wait for these for ever.
func TestOutage_openRows(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	db := openAt(t, at, nil)
	in := database.NewInsert("t", []string{"n"}, "ON CONFLICT DO NOTHING")
	many := func(tx *database.Tx) error {
		return tx.Insert(in, 400, func(i int) []any { return []any{i} }, nil)
	}
	newLedger(t, db)
	both, writing := map[string]func(*database.Tx) error{"Read": nil, "Write": nil}, map[string]func(*database.Tx) error{"Write": nil}
	for _, test := range []struct {
		name string
		in   map[string]func(*database.Tx) error // and what comes first there
		ask  func(tx *database.Tx, first *sql.Rows) error
	}{
		{"Query", both, func(tx *database.Tx, _ *sql.Rows) error {
			rows, err := tx.Query("SELECT n FROM t ORDER BY n DESC")
			if err != nil {
				return err
			}
			defer rows.Close()
			return rows.Err()
		}},
		{"One", both, func(tx *database.Tx, _ *sql.Rows) error {
			var n int
			_, err := tx.One("SELECT n FROM t WHERE n = 7", nil, &n)
			return err
		}},
		{"prepared", both, func(tx *database.Tx, _ *sql.Rows) error { // before the connection broke
			var n int
			_, err := tx.One("SELECT max(n) FROM t", nil, &n)
			return err
		}},
		{"Run", both, func(tx *database.Tx, _ *sql.Rows) error { return tx.Run("SELECT 1") }},
		{"Next", both, func(_ *database.Tx, first *sql.Rows) error {
			for first.Next() {
				continue
			}
			return first.Err()
		}},
		{"Close", both, func(_ *database.Tx, first *sql.Rows) error { return first.Close() }},
		{"Exec", writing, func(tx *database.Tx, _ *sql.Rows) error {
			_, err := tx.Exec("DELETE FROM t WHERE n < 0")
			return err
		}},
		{"Insert", writing, func(tx *database.Tx, _ *sql.Rows) error { return many(tx) }},
		{"midst of Insert", writing, func(tx *database.Tx, _ *sql.Rows) error {
			return tx.Insert(in, 400, func(i int) []any {
				if i == 200 {
					r.cutOff(databasetest.Shared(t))
				}
				return []any{i}
			}, nil)
		}},
		{"Insert into a stage in use", map[string]func(*database.Tx) error{"Write": many}, func(tx *database.Tx, _ *sql.Rows) error { return many(tx) }},
	} {
		for how, before := range test.in {
			t.Run(test.name+" in "+how, func(t *testing.T) {
				eventually(t, "it writes, which leaves a stage", func() bool { return db.Write(t.Context(), many) == nil })
				// Of a goroutine of its own: a test that fails would close the database, which waits for the connection for ever.
				watch := time.AfterFunc(time.Minute, func() { panic("what was asked with results open is never answered") })
				defer watch.Stop()
				if err := askWithOpenRows(r, db, how, before, test.ask, test.name != "midst of Insert"); sdk.CodeOf(err) != sdk.CodeUnavailable {
					t.Errorf("after the connection ended: %v", err)
				}
				eventually(t, "the outage ends", func() bool { return db.Outage() == nil && readOne(db) == nil })
			})
		}
	}
}

// askWithOpenRows has ask ask something with two results open. before comes first; where cut says so, the connection ends then.
func askWithOpenRows(r *relay, db *database.DB, how string, before func(*database.Tx) error, ask func(*database.Tx, *sql.Rows) error, cut bool) error {
	do := db.Read
	if how == "Write" {
		do = db.Write
	}
	return do(context.Background(), func(tx *database.Tx) error {
		if before != nil {
			if err := before(tx); err != nil {
				return err
			}
		}
		var n int
		if _, err := tx.One("SELECT max(n) FROM t", nil, &n); err != nil {
			return err
		}
		var open []*sql.Rows
		for _, query := range []string{"SELECT n FROM t ORDER BY n", "SELECT n FROM t WHERE n > 1 ORDER BY n"} {
			rows, err := tx.Query(query) //nolint:rowserrcheck // the connection ends
			if err != nil {
				return err
			}
			defer rows.Close()
			open = append(open, rows)
		}
		if cut {
			r.cutOff(databasetest.Shared(r.tb))
		}
		return ask(tx, open[0])
	})
}
