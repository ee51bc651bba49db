//go:build !unix

package service

import "os"

// listens is never asked where no sockets are handed over.
func listens(*os.File) (bool, error) { return true, nil }
