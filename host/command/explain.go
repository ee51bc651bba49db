package command

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) explainCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "explain MODEL ID",
		Short: "Say why a record is or is not visible here, who wrote each field and when, and who else has it",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sdk.ParseRecordID(args[1])
			if err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				e, err := host.Explain(ctx, sdk.ModelName(args[0]), id)
				if err != nil {
					return err
				}
				names, err := deviceNames(ctx, host)
				if err != nil {
					return err
				}
				if a.json {
					return a.object(explained(&e, names))
				}
				keeper := ""
				if e.Parked > 0 {
					if keeper, err = keeperOf(ctx, host, e.Model); err != nil {
						return err
					}
				}
				return a.printExplanation(&e, names, keeper)
			})
		},
	})
}

// printExplanation prints e. keeper says what the changes wait for that are kept for a plugin.
func (a *app) printExplanation(e *control.ExplanationView, names names, keeper string) error {
	head := []string{plain(string(e.Model)) + " " + e.ID.String(), a.standing(e, names)}
	if !e.Inserted.IsZero() {
		head = append(head, "inserted by "+a.by(names, e.Inserted))
	}
	if !e.Owned.IsZero() && e.Deleted.IsZero() {
		head = append(head, "owned by "+plain(names.of(e.Owned.Device)))
	}
	if err := a.printf("%s\n", strings.Join(head, "   ")); err != nil {
		return err
	}
	t := newTable(a.Out)
	for i := range e.Fields {
		t.row(a.fieldRow(e, &e.Fields[i], names)...)
		a.partRows(t, &e.Fields[i], names)
	}
	if err := t.flush(); err != nil {
		return printed(err)
	}
	for _, note := range a.reasons(e, names, keeper) {
		if err := a.printf("%s\n", plain(note)); err != nil {
			return err
		}
	}
	if len(e.Elsewhere) == 0 {
		return nil
	}
	return a.printf("%s\n", elsewhere(e.Elsewhere, names))
}

// elsewhere says which other devices have the record as it is here; those of which the same is known share a clause.
func elsewhere(all []control.Whereabouts, names names) string {
	var clauses []string
	who := map[string][]string{}
	for _, w := range all {
		state := presence(w.State)
		if w.Detail != "" {
			state += " (" + w.Detail + ")"
		}
		if who[state] == nil {
			clauses = append(clauses, state)
		}
		who[state] = append(who[state], names.of(w.Device))
	}
	for i, state := range clauses {
		clauses[i] = plain("at " + strings.Join(who[state], ", ") + ": " + state)
	}
	return strings.Join(clauses, "   ")
}

// presence says in words what is known of a device: that it has the changes, not that it shows the record, since its plugin may
// be missing or fail.
func presence(state control.Presence) string {
	if state == control.PresenceSame {
		return "has the same changes"
	}
	return strings.ReplaceAll(string(state), "_", " ")
}

// standing says where the record stands, in words.
func (a *app) standing(e *control.ExplanationView, names names) string {
	switch e.State {
	case control.StateVisible:
		return "visible"
	case control.StateWaiting:
		return "not visible: it waits for " + count(int64(len(e.Missing)), "record")
	case control.StateDeleted:
		return "deleted by " + a.by(names, e.Deleted)
	case control.StateNotInserted:
		return "not visible: changes of it have arrived, its insert has not"
	case control.StateUnread:
		return "not visible: nothing of it could be stored as a record"
	}
	return plain(string(e.State))
}

func (a *app) by(names names, v sdk.Version) string {
	return plain(names.of(v.Device)) + " " + a.moment(v.Stamp.Time())
}

// fieldRow returns a field, its value, who wrote it when, and over what that had not been seen.
func (a *app) fieldRow(e *control.ExplanationView, f *control.FieldView, names names) []string {
	cells := []string{"  " + f.Name, cut(text(f.Value))}
	if write := writeOf(e, f); !write.IsZero() {
		cells = append(cells, names.of(write.Device), a.moment(write.Stamp.Time()))
	}
	var over []string
	for i := range e.Conflicts {
		if c := &e.Conflicts[i]; c.Field == f.Name {
			over = append(over, fmt.Sprintf("%s by %s (kept: starling conflicts restore %d)", cut(string(c.Value)), names.of(c.Lost.Device), c.Number))
		}
	}
	if len(over) > 0 {
		cells = append(cells, "over "+strings.Join(over, ", "))
	}
	return cells
}

// explainedParts bounds the rows of one field's parts; the rest is in the JSON.
const explainedParts = 20

// partRows adds a row for each element of a set, or each device that has added to a counter: by whom and when it was last.
func (a *app) partRows(t *table, f *control.FieldView, names names) {
	for i, p := range f.Parts {
		if i == explainedParts {
			t.row("", fmt.Sprintf("and %d more: --json", len(f.Parts)-i))
			return
		}
		t.row("", "  "+cut(string(p.Value)), names.of(p.Write.Device), a.moment(p.Write.Stamp.Time()))
	}
}

// writeOf returns the write that gave a field its value: of a device-owned record its owner's last.
func writeOf(e *control.ExplanationView, f *control.FieldView) sdk.Version {
	if !e.Owned.IsZero() {
		return e.Owned
	}
	return f.Write
}

// keeperOf says, for people, which plugin kept changes of a model wait for.
func keeperOf(ctx context.Context, host *control.Client, model sdk.ModelName) (string, error) {
	plugins, err := host.Plugins(ctx)
	if err != nil {
		return "", err
	}
	unheard := false // a plugin that has not run yet is known by its name alone
	for i := range plugins {
		if plugins[i].Name == string(model) || slices.Contains(plugins[i].Models, model) {
			return fmt.Sprintf("the plugin of model %q, which is not running or failed on them; see: starling plugin list", model), nil
		}
		unheard = unheard || plugins[i].Kind == "model" && plugins[i].PID == 0
	}
	if unheard {
		return fmt.Sprintf("a plugin that serves model %q: none that runs here does; see: starling plugin list", model), nil
	}
	return fmt.Sprintf("a plugin that serves model %q: no plugin for it is configured here; add it to config.hcl, then: starling reload", model), nil
}

// reasons returns what keeps the record, or changes of it, from being seen: one line each.
func (a *app) reasons(e *control.ExplanationView, names names, keeper string) []string {
	var notes []string
	for i := range e.Missing {
		m := &e.Missing[i]
		notes = append(notes, m.Field+" waits for "+needed(m))
	}
	if e.Parked > 0 {
		notes = append(notes, fmt.Sprintf("%s of it kept for %s", count(e.Parked, "change"), keeper))
	}
	for i := range e.Refused {
		r := &e.Refused[i]
		notes = append(notes, fmt.Sprintf("a change by %s was refused here: %s", a.by(names, sdk.Version{Stamp: r.Stamp, Device: r.Origin}), r.Message))
	}
	return notes
}

// needed names a missing record and says where it is.
func needed(m *control.Missing) string {
	model := string(m.Model)
	if model == "" {
		model = "record"
	}
	return fmt.Sprintf("%s %s, which %s", model, m.ID, missing(m.State))
}

func missing(state string) string {
	switch state {
	case "deleted":
		return "is deleted"
	case "waiting":
		return "waits for another itself"
	}
	return "has not arrived here"
}

// The forms of an explanation for programs.
type (
	explainedRecord struct {
		Model    sdk.ModelName           `json:"model"`
		ID       sdk.RecordID            `json:"id"`
		State    control.RecordState     `json:"state"`
		Inserted *explainedWrite         `json:"inserted,omitempty"`
		Deleted  *explainedWrite         `json:"deleted,omitempty"`
		Owner    string                  `json:"owner,omitempty"`
		Fields   []explainedField        `json:"fields"`
		Missing  []control.Missing       `json:"missing"`
		Parked   int64                   `json:"parked"`
		Refused  []control.RefusedChange `json:"refused"`

		Elsewhere []explainedElsewhere `json:"elsewhere"`
	}
	explainedElsewhere struct {
		Name   string           `json:"name"`
		Device sdk.DeviceID     `json:"device"`
		State  control.Presence `json:"state"`
		Detail string           `json:"detail"`
	}
	explainedWrite struct {
		By     string       `json:"by"` // the device's name
		Device sdk.DeviceID `json:"device"`
		At     time.Time    `json:"at"`
	}
	explainedField struct {
		Name  string          `json:"name"`
		Value json.RawMessage `json:"value"`
		*explainedWrite
		Parts []explainedPart `json:"parts,omitempty"` // of a set its elements, of a counter what each device has added
		Over  []explainedLoss `json:"over,omitempty"`
	}
	explainedPart struct {
		Value json.RawMessage `json:"value"`
		explainedWrite
	}
	explainedLoss struct {
		Number int64           `json:"number"` // in the conflict journal
		Value  json.RawMessage `json:"value"`
		explainedWrite
	}
)

func explained(e *control.ExplanationView, names names) explainedRecord {
	write := func(v sdk.Version) *explainedWrite {
		if v.IsZero() {
			return nil
		}
		return &explainedWrite{By: names.of(v.Device), Device: v.Device, At: v.Stamp.Time().UTC()}
	}
	out := explainedRecord{
		Model: e.Model, ID: e.ID, State: e.State, Inserted: write(e.Inserted), Deleted: write(e.Deleted),
		Fields: []explainedField{}, Missing: e.Missing, Parked: e.Parked, Refused: e.Refused, Elsewhere: []explainedElsewhere{},
	}
	for _, w := range e.Elsewhere {
		out.Elsewhere = append(out.Elsewhere, explainedElsewhere{names.of(w.Device), w.Device, w.State, w.Detail})
	}
	if !e.Owned.IsZero() {
		out.Owner = names.of(e.Owned.Device)
	}
	for i := range e.Fields {
		f := &e.Fields[i]
		field := explainedField{Name: f.Name, Value: f.Value, explainedWrite: write(writeOf(e, f))}
		for _, p := range f.Parts {
			field.Parts = append(field.Parts, explainedPart{p.Value, *write(p.Write)})
		}
		for j := range e.Conflicts {
			if c := &e.Conflicts[j]; c.Field == f.Name {
				field.Over = append(field.Over, explainedLoss{Number: c.Number, Value: c.Value, explainedWrite: *write(c.Lost)})
			}
		}
		out.Fields = append(out.Fields, field)
	}
	return out
}
