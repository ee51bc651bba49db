package database

import (
	"context"
	"embed"
	"fmt"

	"github.com/uptrace/bun/migrate"

	"github.com/starling-sync/starling/sdk"
)

// The files of migrations say what each of Starling's own tables is for. They can be run again where they were
// interrupted.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

func (db *DB) migrate(ctx context.Context) error {
	migrations := migrate.NewMigrations()
	if err := migrations.Discover(migrationFiles); err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	migrator := migrate.NewMigrator(db.pool, migrations,
		migrate.WithTableName("_migration"), migrate.WithLocksTableName("_migration_lock"), migrate.WithMarkAppliedOnSuccess(true))
	if err := migrator.Init(ctx); err != nil {
		return err
	}
	unknown, err := migrator.MissingMigrations(ctx)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return sdk.Errorf(sdk.CodeUnsupported, "the database was made by a newer version (migration %s); run that version", unknown[0].Name)
	}
	_, err = migrator.Migrate(ctx)
	return err
}
