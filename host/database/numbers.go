package database

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/starling-sync/starling/sdk"
)

// ColumnSet names the columns of packed rows of a model.
type ColumnSet struct {
	Model   sdk.ModelName
	Version uint32
	Columns string // their names, separated by commas
}

// ColumnsOf returns the column set of batch.
func ColumnsOf(batch *sdk.Batch) ColumnSet {
	return ColumnSet{Model: batch.Model, Version: batch.Version, Columns: strings.Join(batch.Columns, ",")}
}

// Names returns the names of the columns.
func (s ColumnSet) Names() []string {
	if s.Columns == "" {
		return nil
	}
	return strings.Split(s.Columns, ",")
}

type nameKey string

// DeviceNumber returns the local number of a device, giving it one if the transaction may write; else 0 if it has none.
func (tx *Tx) DeviceNumber(id sdk.DeviceID) (int64, error) {
	return tx.number(id, "SELECT n FROM _device WHERE id = ?", "INSERT INTO _device (id) VALUES (?) RETURNING n", id[:])
}

// NameNumber returns the local number of a model's or a field's name, as DeviceNumber does.
func (tx *Tx) NameNumber(name string) (int64, error) {
	return tx.number(nameKey(name), "SELECT n FROM _name WHERE name = ?", "INSERT INTO _name (name) VALUES (?) RETURNING n", name)
}

// ColumnsNumber returns the local number of a column set, as DeviceNumber does.
func (tx *Tx) ColumnsNumber(set ColumnSet) (int64, error) {
	return tx.number(set, "SELECT n FROM _columns WHERE model = ? AND version = ? AND names = ?",
		"INSERT INTO _columns (model, version, names) VALUES (?, ?, ?) RETURNING n", string(set.Model), int64(set.Version), set.Columns)
}

func (tx *Tx) number(key any, find, insert string, args ...any) (int64, error) {
	all := &tx.db.numbers
	all.mu.RLock()
	n, ok := all.number[key]
	all.mu.RUnlock()
	if ok {
		return n, nil
	}
	if n, ok := tx.numbered[key]; ok {
		return n, nil
	}
	found, err := tx.One(find, args, &n)
	if err != nil {
		return 0, fmt.Errorf("find local number: %w", err)
	}
	if !found && !tx.writable {
		return 0, nil
	}
	if !found {
		if _, err := tx.One(insert, args, &n); err != nil {
			return 0, fmt.Errorf("give local number: %w", err)
		}
	}
	if !tx.writable {
		all.add(key, n)
		return n, nil
	}
	if tx.numbered == nil {
		tx.numbered = make(map[any]int64)
	}
	tx.numbered[key] = n
	tx.AfterCommit(func() { all.add(key, n) })
	return n, nil
}

func (all *numbers) add(key any, n int64) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.number == nil {
		all.number = make(map[any]int64)
		all.device = make(map[int64]sdk.DeviceID)
		all.name = make(map[int64]string)
		all.column = make(map[int64]ColumnSet)
	}
	all.number[key] = n
	switch key := key.(type) {
	case sdk.DeviceID:
		all.device[n] = key
	case nameKey:
		all.name[n] = string(key)
	case ColumnSet:
		all.column[n] = key
	}
}

// Device returns the device with local number n.
func (tx *Tx) Device(n int64) (sdk.DeviceID, error) {
	all := &tx.db.numbers
	all.mu.RLock()
	id, ok := all.device[n]
	all.mu.RUnlock()
	if ok {
		return id, nil
	}
	var raw []byte
	found, err := tx.One("SELECT id FROM _device WHERE n = ?", []any{n}, &raw)
	if err != nil {
		return id, fmt.Errorf("find device %d: %w", n, err)
	}
	if !found || len(raw) != len(id) {
		return id, sdk.Errorf(sdk.CodeInternal, "the database has no device with local number %d", n)
	}
	id = sdk.DeviceID(raw)
	tx.learn(id, n)
	return id, nil
}

// Name returns the model's or field's name with local number n.
func (tx *Tx) Name(n int64) (string, error) {
	all := &tx.db.numbers
	all.mu.RLock()
	name, ok := all.name[n]
	all.mu.RUnlock()
	if ok {
		return name, nil
	}
	found, err := tx.One("SELECT name FROM _name WHERE n = ?", []any{n}, &name)
	if err != nil {
		return "", fmt.Errorf("find name %d: %w", n, err)
	}
	if !found {
		return "", sdk.Errorf(sdk.CodeInternal, "the database has no name with local number %d", n)
	}
	tx.learn(nameKey(name), n)
	return name, nil
}

// Columns returns the column set with local number n.
func (tx *Tx) Columns(n int64) (ColumnSet, error) {
	all := &tx.db.numbers
	all.mu.RLock()
	set, ok := all.column[n]
	all.mu.RUnlock()
	if ok {
		return set, nil
	}
	found, err := tx.One("SELECT model, version, names FROM _columns WHERE n = ?", []any{n}, &set.Model, &set.Version, &set.Columns)
	if err != nil {
		return set, fmt.Errorf("find columns %d: %w", n, err)
	}
	if !found {
		return set, sdk.Errorf(sdk.CodeInternal, "the database has no columns with local number %s", strconv.FormatInt(n, 10))
	}
	tx.learn(set, n)
	return set, nil
}

// learn keeps a number that was read. In a writable transaction it may be one that is not committed yet.
func (tx *Tx) learn(key any, n int64) {
	if !tx.writable {
		tx.db.numbers.add(key, n)
	}
}
