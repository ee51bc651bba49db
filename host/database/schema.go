package database

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/uptrace/bun/migrate"

	"github.com/starling-sync/starling/sdk"
)

// The files of migrations say what each of Starling's own tables is for. They can be run again where they were
// interrupted. Those of PostgreSQL have the same names and make the same tables.
//
//go:embed migrations/*.sql migrations/postgres/*.sql
var migrationFiles embed.FS

func (db *DB) migrate(ctx context.Context) error {
	defer db.engine.takingLong()()
	migrations := migrate.NewMigrations()
	if err := migrations.Discover(flat{migrationFiles, db.engine.folder()}); err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	migrator := migrate.NewMigrator(db.engine.pool(), migrations,
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

// flat is one folder of files, without those below it.
type flat struct {
	files  embed.FS
	folder string
}

// Open implements fs.FS.
func (f flat) Open(name string) (fs.File, error) { return f.files.Open(path.Join(f.folder, name)) }

// ReadDir implements fs.ReadDirFS.
func (f flat) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := f.files.ReadDir(path.Join(f.folder, name))
	return slices.DeleteFunc(entries, fs.DirEntry.IsDir), err
}
