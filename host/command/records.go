package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// Records that one call of put carries at most.
const (
	batchRecords = 100
	batchBytes   = 4 << 20
)

func (a *app) putCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "put MODEL [ID] JSON",
		Short: "Insert a record, or update the named fields of one; print its id",
		Long: "Insert a record, or with an ID update the named fields of the record with that id. Prints the id.\n\n" +
			"JSON is an object of fields and values, or - to read objects from standard input, one after the other.\n" +
			"Of a set write its elements as a list, or {\"add\": [...], \"remove\": [...]}; of a counter a number, or {\"add\": 3}.",
		Example: "  starling put tag '{\"name\":\"holiday\"}'\n  starling put tag ID '{\"color\":\"red\"}'\n  starling put tag - < tags.jsonl",
		Args:    cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			var record sdk.RecordID
			if len(args) == 3 {
				if cmd.Flags().Changed("id") {
					return misusef(cmd, "the id is given twice: as %s and by --id", args[1])
				}
				id = args[1]
			}
			if len(args) == 3 || cmd.Flags().Changed("id") {
				var err error
				if record, err = sdk.ParseRecordID(id); err != nil {
					return err
				}
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				p := &putter{app: a, host: host, model: sdk.ModelName(args[0]), id: record}
				object := args[len(args)-1]
				if object == "-" {
					return p.stream(ctx, a.In)
				}
				return p.one(ctx, []byte(object))
			})
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "update the record with this `id`")
	return cmd
}

// putter writes objects and prints their ids in order.
type putter struct {
	*app
	host    *control.Client
	model   sdk.ModelName
	id      sdk.RecordID // zero: insert
	first   int          // number, from 1, of the first record in batch
	batch   []control.Put
	bytes   int
	refused int
}

func (p *putter) one(ctx context.Context, object []byte) error {
	result, err := p.host.Put(ctx, p.model, []control.Put{{ID: p.id, JSON: object}}, true)
	if err != nil {
		return err
	}
	if len(result.Refused) > 0 {
		return refusal(result.Refused[0])
	}
	if err := p.printf("%s\n", result.IDs[0]); err != nil {
		return err
	}
	return p.noteWaiting(ctx, p.host, p.model, result.IDs[0])
}

// noteWaiting says of a record that was written, and is not to be seen, what it waits for: it may be on its way, or mistyped.
func (a *app) noteWaiting(ctx context.Context, host *control.Client, model sdk.ModelName, id sdk.RecordID) error {
	e, err := host.Explain(ctx, model, id)
	if err != nil || e.State != control.StateWaiting || len(e.Missing) == 0 {
		return nil //nolint:nilerr // it was written, which is what was asked for
	}
	_, err = fmt.Fprintf(a.Err, "starling: written, and not visible yet: its %s is %s; see: starling waiting\n", e.Missing[0].Field, needed(&e.Missing[0]))
	return printed(err)
}

// stream writes the objects of in. A refused one is reported and does not keep the others from being written; after
// one that is not JSON nothing can be read.
func (p *putter) stream(ctx context.Context, in io.Reader) error {
	decoder := json.NewDecoder(bufio.NewReaderSize(in, batchBytes/16))
	count := 0
	for {
		var object json.RawMessage
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if flushed := p.flush(ctx); flushed != nil {
				return flushed
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the JSON ends too early")
			}
			return sdk.Errorf(sdk.CodeInvalid, "standard input, record %d: %w; what came before it was put", count+1, err)
		}
		if count++; count > 1 && !p.id.IsZero() {
			return sdk.Errorf(sdk.CodeInvalid, "standard input holds several records, but --id names one; nothing was put")
		}
		if len(p.batch) == 0 {
			p.first = count
		}
		p.batch = append(p.batch, control.Put{ID: p.id, JSON: object})
		p.bytes += len(object)
		full := len(p.batch) == batchRecords || p.bytes >= batchBytes
		if p.id.IsZero() && (full || idle(decoder)) {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	if count == 0 {
		return sdk.Errorf(sdk.CodeInvalid, "standard input is empty; give JSON objects, one a line")
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	if p.refused > 0 {
		return sdk.Errorf(sdk.CodeInvalid, "%d of %d records were refused; the others were put", p.refused, count)
	}
	return nil
}

// idle reports whether everything that was read has been decoded: whoever writes may wait for an answer now.
func idle(decoder *json.Decoder) bool {
	rest, err := io.ReadAll(decoder.Buffered())
	return err == nil && len(bytes.TrimSpace(rest)) == 0
}

func (p *putter) flush(ctx context.Context) error {
	if len(p.batch) == 0 {
		return nil
	}
	result, err := p.host.Put(ctx, p.model, p.batch, false)
	if err != nil {
		return p.stopped(err)
	}
	for _, r := range result.Refused {
		p.refused++
		fmt.Fprintf(p.Err, "starling: record %d: %s\n", p.first+r.Index, r.Message)
	}
	var ids bytes.Buffer
	for _, id := range result.IDs {
		if !id.IsZero() {
			ids.WriteString(id.String() + "\n")
		}
	}
	p.batch, p.bytes = nil, 0
	_, err = p.Out.Write(ids.Bytes())
	return printed(err)
}

// stopped says of which records err is, where others of the stream went before them.
func (p *putter) stopped(err error) error {
	last := p.first + len(p.batch) - 1
	switch {
	case last == 1:
		return err
	case p.first == 1:
		return fmt.Errorf("records 1 to %d: %w", last, err)
	case p.first == last:
		return fmt.Errorf("record %d: %w; what came before it was put, as far as it was not refused", last, err)
	}
	return fmt.Errorf("records %d to %d: %w; what came before them was put, as far as it was not refused", p.first, last, err)
}

func (a *app) getCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "get MODEL ID",
		Short: "Print a record: its values, and who wrote them when",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sdk.ParseRecordID(args[1])
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				record, err := host.Get(ctx, sdk.ModelName(args[0]), id)
				if err != nil {
					return err
				}
				if a.json {
					return a.line(record)
				}
				names, err := deviceNames(ctx, host)
				if err != nil {
					return err
				}
				return a.printRecord(record, names)
			})
		},
	})
}

func (a *app) printRecord(record json.RawMessage, names names) error {
	fields, err := members(record)
	if err != nil {
		return err
	}
	clocks := map[string]string{}
	owner, stamp := "", ""
	for _, f := range fields {
		switch f.name {
		case "_clocks":
			if err := json.Unmarshal(f.raw, &clocks); err != nil {
				return fmt.Errorf("read what the host sent: %w", err)
			}
		case "_owner":
			owner = text(f.raw)
		case "_stamp":
			stamp = text(f.raw)
		}
	}
	t := newTable(a.Out)
	for _, f := range fields {
		if strings.HasPrefix(f.name, "_") {
			continue
		}
		clock := f.name
		if f.name == "id" {
			clock = "_inserted"
		}
		t.row(append([]string{f.name, text(f.raw)}, a.writtenBy(names, clocks[clock])...)...)
	}
	if owner != "" {
		t.row(append([]string{"_owner"}, a.writtenBy(names, stamp+"@"+owner)...)...)
	}
	return printed(t.flush())
}

// writtenBy returns the device's name and the time of a write.
func (a *app) writtenBy(names names, version string) []string {
	v, err := control.ParseVersion(version)
	if err != nil {
		return nil
	}
	return []string{names.of(v.Device), a.moment(v.Stamp.Time())}
}

// names are the devices' names.
type names map[sdk.DeviceID]string

func deviceNames(ctx context.Context, host *control.Client) (names, error) {
	status, err := host.Status(ctx)
	if err != nil {
		return nil, err
	}
	return namesIn(&status), nil
}

func namesIn(status *control.Status) names {
	n := names{status.DeviceID: status.DeviceName}
	for _, p := range status.Peers {
		n[p.ID] = p.Name
	}
	return n
}

func (n names) of(id sdk.DeviceID) string {
	if name := n[id]; name != "" {
		return name
	}
	return id.String()
}

func (a *app) listCommand() *cobra.Command {
	var conditions []string
	var limit int
	cmd := a.reads(&cobra.Command{
		Use:     "list MODEL",
		Short:   "List a model's records",
		Example: "  starling list tag --where name=work\n  starling list entry --where kind=file --where size=0 --limit 10 --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return misusef(cmd, "--limit %d is negative; leave it out to list all", limit)
			}
			var where []control.Where
			for _, c := range conditions {
				field, value, ok := strings.Cut(c, "=")
				if !ok || field == "" {
					return misusef(cmd, "--where %q lacks a field or =; write it as field=value", c)
				}
				where = append(where, control.Where{Field: field, Value: value})
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				out := bufio.NewWriterSize(a.Out, 64<<10)
				l := &lister{out: out, json: a.json}
				err := host.List(ctx, sdk.ModelName(args[0]), where, limit, l.add)
				err = errors.Join(err, printed(l.end()), printed(out.Flush()))
				if err == nil && l.table == nil && !a.json {
					_, err = fmt.Fprintln(a.Err, "no records") // not on standard output: a script gets nothing
				}
				return err
			})
		},
	})
	cmd.Flags().StringArrayVar(&conditions, "where", nil, "only records whose `field=value`, or whose set has the value; empty means null, except for text; several must all hold")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so `many` (0: all)")
	return cmd
}

// lister prints records: as they are, or as a table.
type lister struct {
	out   io.Writer
	json  bool
	table *table
}

func (l *lister) add(record json.RawMessage) error {
	if l.json {
		_, err := l.out.Write(append(record, '\n'))
		return err
	}
	fields, err := members(record)
	if err != nil {
		return err
	}
	var header, cells []string
	for _, f := range fields {
		if !strings.HasPrefix(f.name, "_") {
			header = append(header, strings.ToUpper(f.name))
			cells = append(cells, cut(text(f.raw)))
		}
	}
	if l.table == nil {
		l.table = newTable(l.out, header...)
	}
	l.table.row(cells...)
	return nil
}

func (l *lister) end() error {
	if l.table == nil {
		return nil
	}
	return l.table.flush()
}

func (a *app) deleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete MODEL ID",
		Short: "Delete a record",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sdk.ParseRecordID(args[1])
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				return remove(ctx, host, sdk.ModelName(args[0]), id)
			})
		},
	}
}

func remove(ctx context.Context, host *control.Client, model sdk.ModelName, id sdk.RecordID) error {
	refused, err := host.Delete(ctx, model, id)
	if err == nil && len(refused) > 0 {
		err = refusal(refused[0])
	}
	return err
}

func (a *app) watchCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "watch [MODEL]",
		Short: "Print changes as they are applied, local and remote, one JSON object a line",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				var models []sdk.ModelName
				for _, m := range args {
					models = append(models, sdk.ModelName(m))
				}
				w, err := host.Watch(ctx, models...)
				if err != nil {
					return err
				}
				defer w.Close()
				for {
					event, err := w.Next()
					if ctx.Err() != nil {
						return nil // asked to stop: that is how a watch ends
					}
					if err != nil {
						return err
					}
					if err := a.line(event); err != nil {
						return err
					}
				}
			})
		},
	})
}
