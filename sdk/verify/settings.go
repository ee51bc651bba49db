package verify

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// declares reports whether any target declares a setting.
func (s *subject) declares() bool {
	for _, declared := range s.info.Settings {
		if len(declared) > 0 {
			return true
		}
	}
	return false
}

// declaring gives each what the targets declare that declare a setting.
func (s *subject) declaring(each func(target int, declared []sdk.Setting)) {
	for _, target := range s.targets() {
		if declared := s.info.Settings[s.modelName(target)]; len(declared) > 0 {
			each(target, declared)
		}
	}
}

// blockOf returns the target's block, by setting.
func (s *subject) blockOf(t sdktest.T, target int) map[string]any {
	t.Helper()
	block := map[string]any{}
	if err := json.Unmarshal(s.config(target), &block); err != nil {
		t.Fatalf("the config block given is not a JSON object: %v", err)
	}
	return block
}

func (s *subject) defaultsAreTaken(t sdktest.T) {
	p := s.start(t)
	s.declaring(func(target int, declared []sdk.Setting) {
		if err := sdk.CheckSettings(declared); err != nil {
			t.Errorf("%s: %v", s.targetName(target), err)
			return
		}
		block := s.blockOf(t, target)
		for i := range declared {
			d := &declared[i]
			if _, given := block[d.Name]; given || d.Default == "" {
				continue
			}
			switch d.Type {
			case sdk.TextSetting, sdk.DurationSetting, sdk.SizeSetting:
				block[d.Name] = d.Default
			default:
				block[d.Name] = json.RawMessage(d.Default)
			}
		}
		text, err := json.Marshal(block)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.configurable(p, target).Configure(s.soon(t), text); err != nil {
			t.Errorf("%s, given its defaults, %s: %v", s.targetName(target), text, err)
		}
	})
	s.mustBeWell(t, p)
}

func (s *subject) wrongTypeIsRefused(t sdktest.T) {
	p := s.start(t)
	s.declaring(func(target int, declared []sdk.Setting) {
		for i := range declared {
			d := &declared[i]
			block := s.blockOf(t, target)
			for _, value := range []any{true, "zz", []any{1}, 1.5} {
				block[d.Name] = value
				text, err := json.Marshal(block)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := sdk.ParseSettings([]sdk.Setting{{Name: d.Name, Type: d.Type}}, one(t, d.Name, value)); err == nil {
					continue // of its type
				}
				err = s.configurable(p, target).Configure(s.soon(t), text)
				switch {
				case err == nil:
					t.Errorf("%s took %s = %v, which is not of type %s", s.targetName(target), d.Name, value, d.Type)
				case sdk.CodeOf(err) != sdk.CodeInvalid:
					t.Errorf("%s, %s = %v: want code %s, got %s: %v", s.targetName(target), d.Name, value, sdk.CodeInvalid, sdk.CodeOf(err), err)
				case !strings.Contains(err.Error(), d.Name):
					t.Errorf("%s, %s = %v: the reason does not name it: %v", s.targetName(target), d.Name, value, err)
				}
			}
		}
	})
	s.mustBeWell(t, p)
}

// asksJudges returns the targets that can judge a config block without taking it.
func (s *subject) asksJudges(ctx context.Context, p *rpc.Process) (judges []int) {
	for _, target := range s.targets() {
		if known, _ := p.Client().CheckConfig(ctx, s.modelName(target), s.config(target)); known { // what it says is for the law
			judges = append(judges, target)
		}
	}
	return judges
}

func (s *subject) judgesBlocks() bool { return len(s.judges) > 0 }

func (s *subject) judgedAsTaken(t sdktest.T) {
	p := s.start(t)
	for _, target := range s.judges {
		bad := s.blockOf(t, target)
		bad[unknownSetting] = 1
		text, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range []json.RawMessage{s.config(target), text} {
			known, judged := p.Client().CheckConfig(s.soon(t), s.modelName(target), block)
			taken := s.configurable(p, target).Configure(s.soon(t), block)
			if known && (judged == nil) != (taken == nil) {
				t.Errorf("%s, asked about %s: %s; given it: %s", s.targetName(target), block, said(judged), said(taken))
			}
		}
	}
	s.mustBeWell(t, p)
}

// said is what came of a block.
func said(err error) string {
	if err == nil {
		return "it is right"
	}
	return err.Error()
}

// one is a block with one setting.
func one(t sdktest.T, name string, value any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(map[string]any{name: value})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
