package sdktest

import (
	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// keyed is a record of a hybrid model, and what is wrong with it.
type keyed struct {
	name   string
	record map[string]any
}

// mistaken returns records that are not of the kind at hand: one of the other kind, and one that has no key at all.
func (s *modelSuite) mistaken() []keyed {
	kind := s.kind
	defer func() { s.kind = kind }()
	s.kind = sdk.DeviceOwned
	if kind == sdk.DeviceOwned {
		s.kind = sdk.SharedByAll
	}
	other, none := s.plain(), s.plain()
	for i := range s.desc.Fields {
		if f := &s.desc.Fields[i]; f.Key && !f.Required {
			none[f.Name] = nil
		}
	}
	return []keyed{{"OtherKind", other}, {"NoKey", none}}
}

func (s *modelSuite) stateOwner(t T) {
	for _, m := range s.mistaken() {
		for _, local := range []bool{false, true} {
			batch := s.rows(s.columns()...)
			batch.add(s.id(m.record, 1), m.record, nil)
			if err := wantRefused(s.applyState(t, batch.Batch, local).Refused, 0, sdk.CodeInvalid); err != nil {
				t.Errorf("%s, local %v: %v", m.name, local, err)
			}
		}
	}
}

func (s *modelSuite) sharedOwner(t T) {
	for _, m := range s.mistaken() {
		for stamp, local := range map[hlc.Stamp]bool{1: false, 2: true} {
			op := operation{id: s.id(m.record, 1), kind: sdk.Insert, at: sdk.Version{Stamp: stamp, Device: deviceID(1)}}
			for _, name := range s.columns() {
				op.writes = append(op.writes, write{field: name, value: m.record[name]})
			}
			if err := wantRefused(s.replica().apply(t, local, op).Refused, 0, sdk.CodeInvalid); err != nil {
				t.Errorf("%s, local %v: %v", m.name, local, err)
			}
		}
	}
}
