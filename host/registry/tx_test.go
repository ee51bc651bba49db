package registry_test

import "github.com/starling-sync/starling/host/database"

type tx = database.Tx
