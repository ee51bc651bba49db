package database

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/lib/pq"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/starling-sync/starling/host/database/dsn"
	"github.com/starling-sync/starling/sdk"
)

// Postgres says where a database in PostgreSQL is.
type Postgres struct {
	DSN    string // postgres://user@host/database?sslmode=...; names sslmode. It may hold a password: it is never shown
	Schema string // made where it is missing, and of this host alone; empty: dsn.DefaultSchema

	Application string        // names this host to the server; empty: "starling"
	Patience    time.Duration // after which a server that says nothing is out of reach; 0: 45 s. A commit in doubt is waited for as long, at most 15 s
}

// leastPostgres is the oldest server that is known to do.
const leastPostgres = 14

// Codes of PostgreSQL's errors (appendix A of its documentation).
const (
	inFailedTransaction = "25P02"
	invalidCursorName   = "34000"
	diskFull            = "53100"
	tooManyConnections  = "53300"
	lockNotAvailable    = "55P03"
	unknownDatabase     = "3D000"
	wrongPassword       = "28P01"
	adminShutdown       = "57P01"
	crashShutdown       = "57P02"
	cannotConnectNow    = "57P03"
	insufficientRight   = "42501"
	unknownSetting      = "42704"
	readOnlyTransaction = "25006"
)

func codeOf(err error) string {
	if failure, ok := errors.AsType[*pq.Error](err); ok {
		return string(failure.Code)
	}
	return ""
}

// postgresSchema is a database in a schema of a PostgreSQL server.
//
// One session, the writer's, holds an advisory lock on the schema as long as it lives, so that no second host writes. Each
// transaction of the writer sets a number (table _opening), so that after a connection that died in a commit one can tell
// whether that commit was kept.
type postgresSchema struct {
	PostgreSQL
	config pq.Config
	schema string
	log    hclog.Logger
	bun    *bun.DB

	stranger error // of a schema that is not there; nil: it is made

	sockets   *sockets
	connector driver.Connector // set by open
	idle      int              // connections that the pool may keep; set by open

	opening string // names this opening of the database; hexadecimal
	commits int64  // the number that the latest transaction set, or tried to
	kept    int64  // the number of the latest transaction that is known to be kept; kept <= commits

	session session // the writer's
}

// session is a session of the server's. A process number alone may be given again.
type session struct {
	pid     int64
	started string
}

func newPostgres(options Postgres, log hclog.Logger) (*postgresSchema, error) {
	config, err := dsn.Parse(options.DSN)
	if err != nil {
		return nil, err
	}
	if err := dsn.CheckFiles(&config); err != nil {
		return nil, err
	}
	p := &postgresSchema{config: config, schema: options.Schema, log: log, opening: rand.Text(), sockets: newSockets(options.Patience)}
	if p.schema == "" {
		p.schema = dsn.DefaultSchema
	}
	if err := dsn.CheckSchema(p.schema); err != nil {
		return nil, err
	}
	if p.config.ApplicationName == "" {
		p.config.ApplicationName = cmp.Or(options.Application, "starling")
	}
	if p.config.ConnectTimeout <= 0 {
		p.config.ConnectTimeout = 10 * time.Second
	}
	p.config.BinaryParameters = true
	if p.config.Runtime == nil {
		p.config.Runtime = make(map[string]string)
	}
	for name, value := range sessionSettings {
		p.config.Runtime[name] = value
	}
	// HAZARD: pg_catalog would be searched first if it were not named, and a model may be called as one of its tables.
	p.config.Runtime["search_path"] = quoteName(p.schema) + ", pg_catalog"
	return p, nil
}

// sessionSettings are what statements here rely on, whatever the server, the database or the role set.
var sessionSettings = map[string]string{
	"synchronous_commit":                  "on", // a commit that returned is durable
	"standard_conforming_strings":         "on",
	"bytea_output":                        "hex",
	"extra_float_digits":                  "1", // floats read back as they were
	"statement_timeout":                   "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"lock_timeout":                        "30s", // an application that locks a table must not hold up every write for ever
	"jit":                                 "off",
	// Every query has an index. A plan made while a table was empty, or not analyzed yet, must not read all of it later.
	"enable_seqscan": "off",
	// A host that is gone without a word frees its lock after about a minute.
	"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3",
}

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// where says which database this is, without its password.
func (p *postgresSchema) where() string {
	host := p.config.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, strconv.Itoa(int(p.config.Port)))
	}
	return fmt.Sprintf("PostgreSQL at %s, database %s, schema %s", host, p.database(), p.schema)
}

// database is the database's name.
func (p *postgresSchema) database() string { return cmp.Or(p.config.Database, p.config.User) }

func (p *postgresSchema) pool() *bun.DB  { return p.bun }
func (p *postgresSchema) folder() string { return "migrations/postgres" }

func (p *postgresSchema) open(_ context.Context, connections int) error {
	connector, err := pq.NewConnectorConfig(p.config)
	if err != nil {
		return err
	}
	connector.Dialer(p.sockets)
	p.connector = connector
	pool := sql.OpenDB(multiplexer{connector})
	pool.SetMaxIdleConns(connections)
	p.idle = connections
	p.bun = bun.NewDB(pool, pgdialect.New())
	return nil
}

func (p *postgresSchema) reader(ctx context.Context) (*connection, error) {
	return newConnection(ctx, p.bun, p, nil)
}

// writer connects, looks at the server, makes the schema and takes its lock.
func (p *postgresSchema) writer(ctx context.Context) (c *connection, err error) {
	return p.connectWriter(ctx, p.makeSchema)
}

// connectWriter is writer with what is to be done about the schema.
func (p *postgresSchema) connectWriter(ctx context.Context, schema func(context.Context, *connection) error) (c *connection, err error) {
	if c, err = newConnection(ctx, p.bun, p, nil); err != nil {
		return nil, p.orTooOld(ctx, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
			c = nil
		}
	}()
	if err := p.checkServer(ctx, c); err != nil {
		return c, err
	}
	if err := schema(ctx, c); err != nil {
		return c, err
	}
	if err := p.lock(ctx, c); err != nil {
		return c, err
	}
	return c, c.one(ctx, "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()", nil, &p.session.pid, &p.session.started)
}

func (p *postgresSchema) checkServer(ctx context.Context, c *connection) error {
	var version int
	var name, encoding, fsync string
	var standby int
	err := c.one(ctx, "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'), current_setting('fsync'), pg_is_in_recovery()",
		nil, &version, &name, &encoding, &fsync, &standby)
	switch {
	case err != nil:
		return err
	case tooOld(version, name) != nil:
		return tooOld(version, name)
	case encoding != "UTF8":
		return sdk.Errorf(sdk.CodeUnsupported, "the database %s stores text as %s, which lacks characters; make one with: createdb --encoding=UTF8 --template=template0 NAME", p.config.Database, encoding)
	case standby != 0:
		return sdk.Errorf(sdk.CodeUnavailable, "the server is a standby, which takes no writes; name the primary in the dsn")
	}
	if fsync != "on" {
		p.log.Warn("the server runs with fsync off: after a crash of its machine this device's data may be damaged; set fsync = on", "server", p.where())
	}
	return nil
}

// tooOld says that a server of this version, and this name of it, does not do; nil where it does.
func tooOld(version int, name string) error {
	if version >= leastPostgres*10_000 {
		return nil
	}
	return sdk.Errorf(sdk.CodeUnsupported, "the server is PostgreSQL %s; this host needs %d or later: upgrade the server, or name another one in the dsn", name, leastPostgres)
}

// orTooOld returns why a server did not take a connection: err, or the server's age. One that is older than a setting of
// sessionSettings refuses whoever brings that along, before it can be asked for its version.
func (p *postgresSchema) orTooOld(ctx context.Context, err error) error {
	if codeOf(err) != unknownSetting {
		return err
	}
	bare := p.config
	bare.Runtime = nil
	connector, failed := pq.NewConnectorConfig(bare)
	if failed != nil {
		return err
	}
	connector.Dialer(p.sockets)
	pool := sql.OpenDB(connector)
	defer pool.Close() //nolint:errcheck // nothing was written
	var version int
	var name string
	failed = pool.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int, current_setting('server_version')").Scan(&version, &name)
	if failed != nil || tooOld(version, name) == nil {
		return err // of a parameter in the dsn
	}
	return tooOld(version, name)
}

// findSchema wants the schema to be there, with this device's tables. It changes nothing.
func (p *postgresSchema) findSchema(ctx context.Context, c *connection) error {
	var tables int
	if err := c.one(ctx, "SELECT count(*) FROM pg_tables WHERE schemaname = $1 AND tablename = '_opening'", []any{p.schema}, &tables); err != nil || tables > 0 {
		return err
	}
	return sdk.Errorf(sdk.CodeUnavailable, "the server that answers at %s does not have this device's data; nothing was changed there; let the server of before, or one with its data, be reached at this address", p.where())
}

func (p *postgresSchema) makeSchema(ctx context.Context, c *connection) error {
	var there int
	if err := c.one(ctx, "SELECT count(*) FROM pg_namespace WHERE nspname = $1", []any{p.schema}, &there); err != nil || there > 0 {
		return err
	}
	if p.stranger != nil {
		return p.stranger
	}
	err := c.run(ctx, "CREATE SCHEMA IF NOT EXISTS "+quoteName(p.schema))
	if codeOf(err) == insufficientRight {
		return sdk.Errorf(sdk.CodeInvalid, "the role %s may not make the schema %s; have an administrator run: CREATE SCHEMA %s AUTHORIZATION %s: %w", p.config.User, p.schema, p.schema, p.config.User, err)
	}
	return err
}

// lockClass tells the advisory locks of this program from those of others: "STLG".
const lockClass = 0x53544c47

// lockPatience is how long the lock of a host that was killed a moment ago may be there still.
const lockPatience = 3 * time.Second

// lock takes the schema's lock for the session, or says who has it.
func (p *postgresSchema) lock(ctx context.Context, c *connection) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; {
		var locked int
		if err := c.one(ctx, "SELECT pg_try_advisory_lock($1, (SELECT oid::int4 FROM pg_namespace WHERE nspname = $2))", []any{lockClass, p.schema}, &locked); err != nil || locked != 0 {
			return err
		}
		if time.Since(start) > lockPatience {
			return p.refuseSecond(ctx, c)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *postgresSchema) refuseSecond(ctx context.Context, c *connection) error {
	var pid int64
	var application, from string
	err := c.one(ctx, `SELECT l.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the server''s machine')
		FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.classid::bigint = $1 AND l.objid::bigint = (SELECT oid::bigint FROM pg_namespace WHERE nspname = $2) LIMIT 1`,
		[]any{lockClass, p.schema}, &pid, &application, &from)
	who := ""
	if err == nil {
		who = fmt.Sprintf(" (connected from %s as %q; the server's process %d)", from, application, pid)
	}
	return sdk.Errorf(sdk.CodeUnavailable, "another host%s uses schema %s of this database; stop it, or give this one its own schema", who, p.schema)
}

func (p *postgresSchema) hasTable() string {
	return "SELECT count(*) FROM pg_tables WHERE schemaname = '" + p.schema + "' AND tablename = ?"
}

// begun names this opening of the database, so that a later session can tell whether another host wrote meanwhile.
func (p *postgresSchema) begun(ctx context.Context, writer *connection) error {
	return writer.run(ctx, fmt.Sprintf(
		"INSERT INTO _opening (n, opening, commits) VALUES (1, '%s', 0) ON CONFLICT (n) DO UPDATE SET opening = excluded.opening, commits = 0", p.opening))
}

// commit ends a transaction. Where the connection dies meanwhile, recover tells whether it was kept.
func (p *postgresSchema) commit(ctx context.Context, writer *connection) error {
	p.commits++
	// HAZARD: COMMIT of a transaction in which a statement failed is a ROLLBACK, and no error. The UPDATE is one.
	err := writer.run(ctx, fmt.Sprintf("UPDATE _opening SET commits = %d; COMMIT", p.commits))
	switch {
	case err == nil:
		p.kept = p.commits
	case p.lost(writer, err):
		return unknownOutcome{err}
	}
	return err
}

// unknownOutcome is the error of a commit that may have been kept.
type unknownOutcome struct{ error }

func (u unknownOutcome) Unwrap() error { return u.error }

// lost reports whether the connection is gone.
func (p *postgresSchema) lost(c *connection, err error) bool {
	if c == nil || gone(err) {
		return true
	}
	valid := true
	if raw := c.Conn.Conn.Raw(func(conn any) error {
		if v, ok := conn.(driver.Validator); ok {
			valid = v.IsValid()
		}
		return nil
	}); raw != nil {
		return true
	}
	return !valid
}

// gone reports an error of the connection rather than of what was asked.
func gone(err error) bool {
	if failure, ok := errors.AsType[*pq.Error](err); ok {
		return failure.Fatal() || failure.Severity == "PANIC" || strings.HasPrefix(string(failure.Code), "08") || string(failure.Code) == cannotConnectNow
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	if _, ok := errors.AsType[unreachable](err); ok {
		return true
	}
	if _, ok := errors.AsType[lostWhileOpen](err); ok {
		return true
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, net.ErrClosed)
}

// unreachable is the error of an attempt to connect.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

// recover makes the writer's connection again, and reports whether the transaction whose outcome was unknown was kept.
func (p *postgresSchema) recover(ctx context.Context) (c *connection, kept bool, err error) {
	// What the pool has is of before the outage: where the network swallows what is sent, an answer on it would be waited for in vain.
	p.bun.SetMaxIdleConns(0)
	p.bun.SetMaxIdleConns(p.idle)
	if c, err = newConnection(ctx, p.bun, p, nil); err != nil {
		return nil, false, err
	}
	// HAZARD: the server may not have noticed yet that the old session is gone, and that may commit even now. So it is
	// ended, and its lock, which goes with it, is waited for before anything is looked at.
	_, err = c.Conn.Conn.ExecContext(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2", p.session.pid, p.session.started)
	if err != nil && codeOf(err) != insufficientRight {
		return nil, false, errors.Join(err, c.close())
	}
	if err := c.close(); err != nil {
		return nil, false, err
	}
	if c, err = p.connectWriter(ctx, p.findSchema); err != nil {
		return nil, false, err
	}
	var opening string
	var commits int64
	if err := c.one(ctx, "SELECT opening, commits FROM _opening WHERE n = 1", nil, &opening, &commits); err != nil {
		return nil, false, errors.Join(err, c.close())
	}
	switch {
	case opening != p.opening:
		return nil, false, errors.Join(changed("another host has used this database meanwhile"), c.close())
	case commits < p.kept:
		return nil, false, errors.Join(changed("the server has lost commits that it had confirmed"), c.close())
	}
	kept = commits == p.commits
	p.kept = commits
	return c, kept, nil
}

// changedError says that the database is not what this host left: what it has in memory no longer fits.
type changedError struct{ error }

func changed(what string) error {
	return changedError{sdk.Errorf(sdk.CodeUnavailable, "%s; start this host again, which reads everything anew", what)}
}

func (c changedError) Unwrap() error { return c.error }

func (p *postgresSchema) size(ctx context.Context) (total int64, err error) {
	err = p.bun.DB.QueryRowContext(ctx, `SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'`, p.schema).Scan(&total)
	return total, err
}

func (p *postgresSchema) takingLong() (end func()) { return p.sockets.takingLong(p.alive) }
func (p *postgresSchema) doubting() (end func())   { return p.sockets.doubting() }
func (p *postgresSchema) hurry()                   { p.sockets.hurry() }

// alive reports whether the server still answers who connects; it is waited for as long as for any connection. A name or a
// certificate that is no good any more says nothing of what the server is at.
func (p *postgresSchema) alive(ctx context.Context) bool {
	conn, err := p.connector.Connect(ctx)
	if err == nil {
		_ = conn.Close()
		return true
	}
	if _, unnamed := errors.AsType[*net.DNSError](err); unnamed {
		return true
	}
	late, ok := errors.AsType[net.Error](err)
	silent := ok && late.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errnoRefused)
	return !silent
}

func (p *postgresSchema) fatal(error) bool { return false } // the server looks after its disk, and restarts
