package sdktest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// note is the record that SourceHostSuite writes.
type note struct {
	sdk.Owned
	Name   string  `starling:"name,required"`
	Size   int64   `starling:"size,index"`
	Parent sdk.Ref `starling:"parent_id,ref=note"`
}

func notes() sdk.Model[note] {
	return sdk.Model[note]{Name: "note", Version: 3, Validate: func(n *note) error {
		if strings.HasPrefix(n.Name, "bad") {
			return sdk.Errorf(sdk.CodeInvalid, "name: %q is bad", n.Name)
		}
		return nil
	}}
}

// SourceHostSuite runs what sdk.SourceHost promises, one law a subtest. newHost returns a host without records that
// serves server, and end, which ends the source that the host is for; what is left is cleaned up with the test.
func SourceHostSuite(t *testing.T, newHost func(t *testing.T, server sdk.ModelServer) (host sdk.SourceHost, end func())) {
	t.Helper()
	for _, law := range []struct {
		name string
		test func(s *hostSuite)
	}{
		{"FindByField", (*hostSuite).findByField},
		{"FindByNil", (*hostSuite).findByNil},
		{"FindByID", (*hostSuite).findByID},
		{"FindOfManyValues", (*hostSuite).findOfManyValues},
		{"FindWhatCanNotBeFound", (*hostSuite).findInvalid},
		{"FindWhatWaits", (*hostSuite).findWaiting},
		{"ColumnsThatAreLeftOutKeepTheirValues", (*hostSuite).partial},
		{"EqualRowsAreLeftAlone", (*hostSuite).unchanged},
		{"RefusedRowsAreReported", (*hostSuite).refused},
		{"TheLastChangeOfARecordWins", (*hostSuite).order},
		{"Deleted", (*hostSuite).deleted},
		{"Changed", (*hostSuite).changed},
	} {
		t.Run(law.name, func(t *testing.T) {
			host, end := newHost(t, notes())
			packer, err := notes().Packer()
			if err != nil {
				t.Fatal(err)
			}
			law.test(&hostSuite{T: t, host: host, end: end, packer: packer})
		})
	}
}

type hostSuite struct {
	*testing.T
	host   sdk.SourceHost
	end    func()
	packer *sdk.Packer[note]
}

// commit commits what was packed, and checks that nothing was refused.
func (s *hostSuite) commit() {
	s.Helper()
	if refused := s.try(s.packer.Batch()); len(refused) > 0 {
		s.Fatalf("refused: %+v", refused)
	}
}

func (s *hostSuite) try(batch sdk.Batch) []sdk.Refusal {
	s.Helper()
	refused, err := s.host.Commit(s.Context(), batch)
	if err != nil {
		s.Fatalf("commit: %v", err)
	}
	return refused
}

// put commits notes in one batch, and gives them their ids.
func (s *hostSuite) put(all ...*note) {
	s.Helper()
	for _, n := range all {
		s.packer.Put(n)
	}
	s.commit()
}

// find returns what Find does, by id.
func (s *hostSuite) find(field string, values ...any) map[sdk.RecordID]note {
	s.Helper()
	batch, err := s.host.Find(s.Context(), "note", field, values)
	if err != nil {
		s.Fatalf("find %s in %v: %v", field, values, err)
	}
	if batch.Model != "note" || (batch.Count > 0 && batch.Version != 3) {
		s.Errorf("found a batch of model %q version %d, want note version 3", batch.Model, batch.Version)
	}
	found := map[sdk.RecordID]note{}
	count := 0
	for n, err := range notes().Rows(&batch) {
		if err != nil {
			s.Fatalf("read what was found: %v", err)
		}
		if n.Stamp == 0 {
			s.Errorf("%s was found without a stamp", n.Name)
		}
		found[n.ID] = n
		count++
	}
	if count != batch.Count || count != len(found) {
		s.Errorf("found %d rows of %d records in a batch of %d", count, len(found), batch.Count)
	}
	return found
}

// expect checks that found are want, whatever their stamps.
func (s *hostSuite) expect(found map[sdk.RecordID]note, want ...*note) {
	s.Helper()
	got, wanted := map[sdk.RecordID]note{}, map[sdk.RecordID]note{}
	for id, n := range found {
		n.Stamp = 0
		got[id] = n
	}
	for _, n := range want {
		plain := *n
		plain.Stamp = 0
		wanted[n.ID] = plain
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		s.Errorf("found (-want +got):\n%s", diff)
	}
}

// family is a top note and two below it.
func (s *hostSuite) family() (top, first, second *note) {
	s.Helper()
	top = &note{Name: "top"}
	s.put(top)
	first = &note{Name: "first", Size: 1, Parent: sdk.Ref(top.ID)}
	second = &note{Name: "second", Size: 2, Parent: sdk.Ref(top.ID)}
	s.put(first, second)
	return top, first, second
}

func (s *hostSuite) findByField() {
	top, first, second := s.family()
	s.expect(s.find("name", "first"), first)
	s.expect(s.find("name", "FIRST"))
	s.expect(s.find("size", int64(0), int64(2)), top, second)
	s.expect(s.find("size", int64(2), int64(2)), second)
	s.expect(s.find("parent_id", top.ID), first, second)
	s.expect(s.find("parent_id", first.ID))
	s.expect(s.find("name", "none"))
}

func (s *hostSuite) findByNil() {
	top, first, second := s.family()
	s.expect(s.find("parent_id", nil), top)
	s.expect(s.find("parent_id", nil, nil), top)
	s.expect(s.find("parent_id", nil, top.ID), top, first, second)
	s.expect(s.find("name", nil))
}

func (s *hostSuite) findByID() {
	s.expect(s.find("id"))
	top, first, second := s.family()
	s.expect(s.find("id"), top, first, second)
	s.expect(s.find("id", first.ID), first)
	s.expect(s.find("id", first.ID, top.ID, first.ID), first, top)
	s.expect(s.find("id", sdk.NewRecordID()))
}

func (s *hostSuite) findOfManyValues() {
	top, first, second := s.family()
	ids := []any{top.ID, second.ID}
	for range 3000 {
		ids = append(ids, sdk.NewRecordID())
	}
	s.expect(s.find("id", append(ids, first.ID, top.ID)...), top, first, second)
	s.expect(s.find("parent_id", append(ids, nil, first.ID, top.ID)...), top, first, second)
}

func (s *hostSuite) findInvalid() {
	for _, test := range []struct {
		model sdk.ModelName
		field string
		value any
		want  sdk.Code
	}{
		{"nothing", "id", sdk.NewRecordID(), sdk.CodeUnknownModel},
		{"note", "colour", "red", sdk.CodeUnknownField},
		{"note", "size", "large", sdk.CodeInvalid},
		{"note", "parent_id", "top", sdk.CodeInvalid},
		{"note", "id", "top", sdk.CodeInvalid},
		{"note", "id", nil, sdk.CodeInvalid},
	} {
		if _, err := s.host.Find(s.Context(), test.model, test.field, []any{test.value}); sdk.CodeOf(err) != test.want {
			s.Errorf("find %s by %s %v: %v, want an error of code %q", test.model, test.field, test.value, err, test.want)
		}
	}
}

// findWaiting: a source finds its records whether they are visible or not, else it would write them again.
func (s *hostSuite) findWaiting() {
	child := &note{Name: "child", Parent: sdk.Ref(sdk.NewRecordID())}
	s.put(child)
	s.expect(s.find("id"), child)
	s.expect(s.find("id", child.ID), child)
	s.expect(s.find("name", "child"), child)
	s.expect(s.find("parent_id", child.Parent.ID()), child)
	s.expect(s.find("parent_id", nil))
}

// noteRows packs one row for each of values, one value a column.
func noteRows(columns []string, ids []sdk.RecordID, values ...[]any) sdk.Batch {
	batch := sdk.Batch{Model: "note", Version: 3, Columns: columns, Count: len(ids)}
	for i, id := range ids {
		batch.Rows = sdk.AppendStateHeader(batch.Rows, id, 0, len(columns))
		for _, value := range values[i] {
			batch.Rows = sdk.AppendValue(batch.Rows, value)
		}
	}
	return batch
}

func (s *hostSuite) partial() {
	top, first, second := s.family()
	refused := s.try(noteRows([]string{"size"}, []sdk.RecordID{first.ID, second.ID}, []any{int64(7)}, []any{int64(8)}))
	if len(refused) > 0 {
		s.Fatalf("refused: %+v", refused)
	}
	first.Size, second.Size = 7, 8
	s.expect(s.find("id"), top, first, second)
	before := s.find("id")
	s.try(noteRows([]string{"size"}, []sdk.RecordID{first.ID, second.ID}, []any{int64(7)}, []any{int64(8)}))
	if diff := cmp.Diff(before, s.find("id")); diff != "" {
		s.Errorf("equal columns were written (-before +after):\n%s", diff)
	}
	refused = s.try(noteRows([]string{"name", "size"}, []sdk.RecordID{first.ID}, []any{nil, int64(9)}))
	if len(refused) != 1 || refused[0].Code != sdk.CodeInvalid {
		s.Errorf("a required column that is nil: %+v, want it refused", refused)
	}
	refused = s.try(noteRows([]string{"size"}, []sdk.RecordID{sdk.NewRecordID()}, []any{int64(9)}))
	if len(refused) != 1 || refused[0].Code != sdk.CodeInvalid {
		s.Errorf("a new record without its required column: %+v, want it refused", refused)
	}
	s.expect(s.find("id"), top, first, second)
}

func (s *hostSuite) unchanged() {
	top, first, second := s.family()
	before := s.find("id")
	second.Size = 3
	s.put(top, first, second)
	after := s.find("id")
	for _, n := range []*note{top, first} {
		if before[n.ID].Stamp != after[n.ID].Stamp {
			s.Errorf("%s was written again, though it is the same", n.Name)
		}
	}
	if before[second.ID].Stamp >= after[second.ID].Stamp {
		s.Errorf("stamp %s after %s", after[second.ID].Stamp, before[second.ID].Stamp)
	}
}

func (s *hostSuite) refused() {
	good, better := &note{Name: "good"}, &note{Name: "better"}
	s.packer.Put(good)
	s.packer.Put(&note{Name: "bad", Size: 1})
	s.packer.Put(better)
	refused := s.try(s.packer.Batch())
	got := map[int]sdk.Code{}
	for _, r := range refused {
		got[r.Index] = r.Code
	}
	if len(refused) != 1 || got[1] != sdk.CodeInvalid || !strings.Contains(refused[0].Message, `"bad"`) {
		s.Errorf("refused %+v, want the row at 1 alone, and why", refused)
	}
	s.expect(s.find("size", int64(1)))
	if n := len(s.find("name", "good", "better")); n != 2 {
		s.Errorf("%d of 2 good rows were written", n)
	}
	good.Name, good.Size = "bad by now", 5
	s.packer.Put(good)
	if refused := s.try(s.packer.Batch()); len(refused) != 1 || refused[0].Index != 0 {
		s.Errorf("refused %+v, want the row", refused)
	}
	good.Name, good.Size = "good", 0
	s.expect(s.find("id", good.ID), good)
}

func (s *hostSuite) order() {
	n := &note{Name: "one", Size: 1}
	s.packer.Put(n)
	n.Size = 2
	s.packer.Put(n)
	s.commit()
	s.expect(s.find("id"), n)
	s.packer.Delete(n.ID)
	n.Size = 3
	s.packer.Put(n)
	s.commit()
	s.expect(s.find("id"), n)
	s.packer.Put(n)
	s.packer.Delete(n.ID)
	s.commit()
	s.expect(s.find("id"))
}

func (s *hostSuite) deleted() {
	top, first, second := s.family()
	s.packer.Delete(first.ID)
	s.packer.Delete(sdk.NewRecordID()) // one that is not there is no error
	s.commit()
	s.expect(s.find("id"), top, second)
	s.expect(s.find("name", "first"))
	s.packer.Delete(first.ID)
	s.commit()
	s.put(first) // it may come back
	s.expect(s.find("id"), top, first, second)
}

func (s *hostSuite) changed() {
	changed, again := s.host.Changed("note"), s.host.Changed("note")
	for _, change := range []func(){
		func() { s.put(&note{Name: "new"}) },
		func() { s.family() },
		func() {
			for id := range s.find("name", "new") {
				s.packer.Delete(id)
			}
			s.commit()
		},
	} {
		change()
		for _, channel := range []<-chan struct{}{changed, again} {
			if _, open := <-channel; !open {
				s.Fatal("the channel was closed before the source ended")
			}
		}
	}
	s.end()
	for range changed { //nolint:revive // it ends because the channel is closed
	}
	for range again { //nolint:revive // as above
	}
}
