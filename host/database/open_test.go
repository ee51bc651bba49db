package database_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

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
