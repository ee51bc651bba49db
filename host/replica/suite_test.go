package replica_test

import (
	"testing"

	"github.com/starling-sync/starling/host/database/databasetest"
)

// TestPostgres holds PostgreSQL to what the tests of this package say.
func TestPostgres(t *testing.T) { databasetest.Again(t) }
