//go:build !unix

package databasetest

import (
	"errors"
	"testing"
)

// Server is a throw-away PostgreSQL server.
type Server struct {
	socket string
	port   int
}

func found() (string, error) {
	_, err := start(0, nil)
	return "", err
}

func start(int, map[string][]byte, ...string) (*Server, error) {
	return nil, errors.New("the throw-away server needs a Unix system")
}

func (s *Server) end() {}

// Kill ends the server as a crash does.
func (s *Server) Kill(tb testing.TB) { tb.Helper(); tb.Skip("no server") }

// Restart starts the server again after Kill.
func (s *Server) Restart(tb testing.TB) { tb.Helper(); tb.Skip("no server") }
