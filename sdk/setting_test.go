package sdk

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// kinds has a setting of each type that a struct can hold.
type kinds struct {
	Text     string            `starling:"text" doc:"some text"`
	Word     word              `starling:"word"`
	Count    int               `starling:"count"`
	Small    int8              `starling:"small"`
	Byte     uint8             `starling:"byte"`
	Ratio    float64           `starling:"ratio"`
	On       bool              `starling:"on"`
	Wait     time.Duration     `starling:"wait"`
	Room     Size              `starling:"room"`
	List     []string          `starling:"list"`
	Map      map[string]string `starling:"map"`
	Password string            `starling:"password,secret"`
	Needed   string            `starling:"needed,required"`
	Other    int               `starling:"-"`
	own      int
}

type word string

func newKinds() *kinds {
	return &kinds{
		Text: "a", Word: "w", Count: 5, Ratio: 0.5, On: true, Wait: 90 * time.Second, Room: 64 << 20, List: []string{"x", "y"},
		Map: map[string]string{"k": "v"}, Password: "sesame", Other: 7, own: 8,
	}
}

func (k *kinds) Check() error {
	if k.Count > 100 {
		return errors.Join(BadSetting("count", "%d is over %d", k.Count, 100), BadSetting("text", "so is this"))
	}
	return nil
}

func TestSettings_Declare(t *testing.T) {
	got, err := Settings(newKinds()).DeclareSettings()
	if err != nil {
		t.Fatal(err)
	}
	want := []Setting{
		{Name: "text", Type: TextSetting, Default: "a", Doc: "some text"}, {Name: "word", Type: TextSetting, Default: "w"},
		{Name: "count", Type: IntSetting, Default: "5"}, {Name: "small", Type: IntSetting}, {Name: "byte", Type: IntSetting},
		{Name: "ratio", Type: FloatSetting, Default: "0.5"}, {Name: "on", Type: BoolSetting, Default: "true"},
		{Name: "wait", Type: DurationSetting, Default: "1m30s"}, {Name: "room", Type: SizeSetting, Default: "64MiB"},
		{Name: "list", Type: TextsSetting, Default: `["x","y"]`}, {Name: "map", Type: TextMapSetting, Default: `{"k":"v"}`},
		{Name: "password", Type: TextSetting, Secret: true}, {Name: "needed", Type: TextSetting, Required: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("declared (-want +got):\n%s", diff)
	}
}

func TestSettings_Configure(t *testing.T) {
	target := newKinds()
	s := Settings(target)
	block := `{"text":"b","word":"v","count":1e1,"small":-128,"byte":255,"ratio":2,"on":false,"wait":"1d","room":"1GiB","list":[],"map":{"a":"b"},"password":"p","needed":"n"}`
	if err := s.Configure(t.Context(), json.RawMessage(block)); err != nil {
		t.Fatal(err)
	}
	want := kinds{
		Text: "b", Word: "v", Count: 10, Small: -128, Byte: 255, Ratio: 2, Wait: 24 * time.Hour, Room: 1 << 30, List: []string{},
		Map: map[string]string{"a": "b"}, Password: "p", Needed: "n", Other: 7, own: 8,
	}
	if diff := cmp.Diff(want, *target, cmp.AllowUnexported(kinds{})); diff != "" {
		t.Errorf("configured (-want +got):\n%s", diff)
	}
	if err := s.Configure(t.Context(), json.RawMessage(`{"needed":"n"}`)); err != nil {
		t.Fatal(err)
	}
	again := newKinds()
	again.Needed = "n"
	if diff := cmp.Diff(again, target, cmp.AllowUnexported(kinds{})); diff != "" {
		t.Errorf("what the block leaves out is not the default (-want +got):\n%s", diff)
	}
	before := *target
	for block, wants := range map[string][]string{
		`{}`:                             {`needed: it is missing; write needed = "text"`},
		`[]`:                             {"the config block is a list, not an object"},
		`{`:                              {"not valid JSON"},
		`{"needed":"n","cuont":1}`:       {`unknown setting "cuont"; did you mean "count"?`},
		`{"needed":"n","count":"7"}`:     {"count: want a whole number, got text; write 7"},
		`{"needed":"n","count":1.5}`:     {"count: 1.5 is not a whole number"},
		`{"needed":"n","count":101}`:     {"count: 101 is over 100", "text: so is this"},
		`{"needed":"n","small":128}`:     {"small: 128 is out of range; want -128 to 127"},
		`{"needed":"n","byte":-1}`:       {"byte: -1 is out of range; want 0 to 255"},
		`{"needed":"n","ratio":1e400}`:   {"ratio: 1e400 is out of range"},
		`{"needed":"n","on":"true"}`:     {"on: want true or false, got text; write true"},
		`{"needed":"n","wait":5}`:        {`wait: want a duration in quotes, got a number; write "5s"`},
		`{"needed":"n","wait":"soon"}`:   {`wait: "soon" is not a duration; write "1m30s"`},
		`{"needed":"n","wait":"-1s"}`:    {`wait: "-1s" is not a duration`},
		`{"needed":"n","room":"big"}`:    {`room: "big" is not a size; write "64MiB"`},
		`{"needed":"n","list":"x"}`:      {`list: want a list of text, got text; write ["x"]`},
		`{"needed":"n","list":["x",1]}`:  {"list: item 2: want text in quotes, got a number"},
		`{"needed":"n","map":{"k":1}}`:   {"map: k: want text in quotes, got a number"},
		`{"needed":"n","text":null}`:     {`text: want text in quotes, got nothing; write "text"`},
		`{"needed":1,"text":2,"zz":3}`:   {`needed: want text in quotes, got a number; write "1"`, `text: want text`, `unknown setting "zz"`},
		`{"needed":"n","password":4711}`: {`password: want text in quotes, got a number; write "text"`},
	} {
		err := s.Configure(t.Context(), json.RawMessage(block))
		if CodeOf(err) != CodeInvalid {
			t.Errorf("%s: %v", block, err)
			continue
		}
		if checked := s.(ConfigChecker).CheckConfig(t.Context(), json.RawMessage(block)); checked == nil || checked.Error() != err.Error() {
			t.Errorf("%s: without taking it %v, else %v", block, checked, err)
		}
		about := SettingErrors(err)
		for i, want := range wants {
			if !strings.Contains(err.Error(), want) || len(about) > 0 && !strings.Contains(about[i].Message, want) {
				t.Errorf("%s: want %q, got %v", block, want, err)
			}
		}
		if strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: a secret is in %v", block, err)
		}
	}
	if err := s.(ConfigChecker).CheckConfig(t.Context(), json.RawMessage(block)); err != nil {
		t.Errorf("a good block, without taking it: %v", err)
	}
	if diff := cmp.Diff(before, *target, cmp.AllowUnexported(kinds{})); diff != "" {
		t.Errorf("a block that was checked, or refused, changed the settings:\n%s", diff)
	}
}

func TestSettings_Tags(t *testing.T) {
	for want, target := range map[string]any{
		"pointer to a struct": kinds{},
		"it has no tag":       &struct{ A string }{},
		"is not exported": &struct {
			a string `starling:"a"`
		}{},
		"can not be a chan int": &struct {
			A chan int `starling:"a"`
		}{},
		`"requird" is unknown; did you mean "required"?`: &struct {
			A string `starling:"a,requird"`
		}{},
		`setting "A"`: &struct {
			A string `starling:"A"`
		}{},
		`two settings are named "a"`: &struct {
			A string `starling:"a"`
			B string `starling:"a"`
		}{},
	} {
		s := Settings(target)
		_, err := s.DeclareSettings()
		if CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if err := s.Configure(t.Context(), nil); err == nil {
			t.Errorf("%s: Configure took it", want)
		}
	}
}

func TestCheckSettings(t *testing.T) {
	for want, declared := range map[string][]Setting{
		"no type":        {{Name: "a", Type: "date"}},
		"has no default": {{Name: "a", Type: TextSetting, Required: true, Default: "x"}},
		"the default of": {{Name: "a", Type: IntSetting, Default: "x"}},
		"at most":        make([]Setting, maxSettings+1),
	} {
		if err := CheckSettings(declared); CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestMeasures wants what is written of a duration or a size to be read as the same.
func TestMeasures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
			t.Errorf("%s is read as %s: %v", FormatDuration(d), back, err)
		}
		size := Size(rapid.Int64Range(0, 1<<53).Draw(t, "size"))
		if back, err := ParseSize(size.String()); err != nil || back != size {
			t.Errorf("%s is read as %s: %v", size, back, err)
		}
	})
}
