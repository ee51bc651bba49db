//go:build unix

package databasetest

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // asks whether a server takes connections
)

// Server is a throw-away PostgreSQL server.
type Server struct {
	bin       string
	folder    string // holds everything
	socket    string // folder of the socket; short, since its path has at most 103 bytes
	port      int    // of the socket's name, and on 127.0.0.1 where it listens there
	arguments []string
	as        *syscall.SysProcAttr

	mu   sync.Mutex     // guards what follows
	life io.WriteCloser // open while the server shall run
	cmd  *exec.Cmd
}

// keep runs a server until its standard input ends, which it does when the test binary is gone too. $1 is "" or what to remove
// afterwards, the rest the server.
const keep = `remove=$1; shift
"$@" </dev/null & server=$!
trap '' INT TERM
read line
kill -QUIT $server 2>/dev/null
wait $server
if [ -n "$remove" ]; then rm -rf "$remove"; fi`

// start starts a server with files in its data folder. A port of 0: it listens on its socket alone.
func start(port int, files map[string][]byte, settings ...string) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	as, owner, err := unprivileged()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("/tmp", "starling-pg")
	if err != nil {
		return nil, err
	}
	if owner >= 0 {
		err = os.Chown(folder, owner, -1)
	}
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, folder: folder, socket: folder, port: defaultPort, as: as}
	addresses := ""
	if port != 0 {
		s.port, addresses = port, "127.0.0.1"
	}
	s.arguments = append([]string{
		filepath.Join(bin, "postgres"), "-D", filepath.Join(folder, "data"), "-k", s.socket, "-c", "listen_addresses=" + addresses, "-p", strconv.Itoa(s.port),
		"-c", "max_connections=300", "-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal", "-c", "unix_socket_permissions=0777",
	}, settings...)
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--no-sync", "-E", "UTF8", "--locale=C", "-A", "trust", "-U", "starling", "-D", filepath.Join(folder, "data"))
	initdb.SysProcAttr, initdb.Dir = as, folder
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, output), os.RemoveAll(folder))
	}
	err = s.write(files, owner)
	if err == nil {
		err = s.run()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return s, nil
}

// write puts files into the data folder, readable by the server alone.
func (s *Server) write(files map[string][]byte, owner int) error {
	for name, content := range files {
		path := filepath.Join(s.folder, "data", name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
		if owner >= 0 {
			if err := os.Chown(path, owner, -1); err != nil {
				return err
			}
		}
	}
	return nil
}

// found returns what the server says that it is.
func found() (string, error) {
	bin, err := find()
	if err != nil {
		return "", err
	}
	said, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	return strings.TrimSpace(string(said)), err
}

// find returns the folder of the server's binaries.
func find() (string, error) {
	var folders []string
	if path, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(path))
	}
	if output, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(output)))
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	folders = append(folders, installed...)
	for _, folder := range folders {
		_, noInit := os.Stat(filepath.Join(folder, "initdb"))
		if _, err := os.Stat(filepath.Join(folder, "postgres")); err == nil && noInit == nil {
			return folder, nil
		}
	}
	return "", errors.New("there is no initdb beside a postgres in PATH, in what pg_config names, or in /usr/lib/postgresql/*/bin; on Debian: apt-get install postgresql")
}

// unprivileged returns who runs the server, which refuses root, and the id of that user; -1: who runs the test.
func unprivileged() (*syscall.SysProcAttr, int, error) {
	// A group of its own: an interrupt from the terminal is for the test, which ends the server itself.
	as := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() != 0 {
		return as, -1, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, -1, err
		}
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return as, int(uid), nil
	}
	return nil, -1, errors.New("this is root, as which PostgreSQL does not run, and there is neither a user postgres nor nobody")
}

// run starts the server and returns when it takes connections.
func (s *Server) run() error {
	remove := s.folder
	cmd := exec.Command("/bin/sh", append([]string{"-c", keep, "sh", remove}, s.arguments...)...)
	cmd.SysProcAttr, cmd.Dir = s.as, s.folder
	log, err := os.OpenFile(filepath.Join(s.folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has it
	cmd.Stdout, cmd.Stderr = log, log
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	s.life, s.cmd = life, cmd
	s.mu.Unlock()
	pool, err := sql.Open("postgres", s.DSN())
	if err != nil {
		return err
	}
	defer pool.Close() //nolint:errcheck // nothing was written
	for deadline := time.Now().Add(3 * time.Minute); ; {
		if err = pool.Ping(); err == nil {
			return nil
		}
		text, _ := os.ReadFile(log.Name())
		if bytes.Contains(text, []byte("could not create any TCP/IP sockets")) { // as each version says in English, and then ends
			s.end()
			return fmt.Errorf("%w: %s", errPortTaken, text)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not start: %w %s", err, text)
		}
		time.Sleep(20 * time.Millisecond) // nothing tells when a server takes connections
	}
}

// Kill ends the server as a crash does: every process of it at once, nothing flushed.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	pid, err := s.pid()
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGQUIT)
	}
	for gone := false; err == nil && !gone; { // it is no child of ours to wait for
		conn, refused := net.Dial("unix", filepath.Join(s.socket, ".s.PGSQL."+strconv.Itoa(s.port)))
		if gone = refused != nil; !gone {
			_ = conn.Close()
			time.Sleep(time.Millisecond)
		}
	}
	if err != nil {
		tb.Fatalf("kill the server: %v", err)
	}
}

// Restart starts the server again after Kill.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	life, cmd := s.life, s.cmd
	s.mu.Unlock()
	_ = cmd.Process.Kill() // the shell alone: it would remove the folder
	_ = cmd.Wait()
	_ = life.Close()
	if err := s.run(); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) pid() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.folder, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(strings.TrimSpace(first))
}

// end stops the server and removes its folder.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.life.Close()
	_ = s.cmd.Wait()
}
