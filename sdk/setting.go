package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Setting describes one setting of a plugin's config block. It is pure data and the same for the life of a process.
type Setting struct {
	Name     string // as ModelName
	Type     SettingType
	Required bool   // a block without it is refused
	Default  string // what counts where it is left out, as text: see DefaultValue; empty: nothing does
	Secret   bool   // its value is shown nowhere
	Doc      string // one line for people
}

// SettingType is the type of a setting. Beside each stand its form in the block, which is a JSON object, and the Go type of
// what Parse makes of it.
type SettingType string

// The types of settings.
const (
	TextSetting     SettingType = "text"     // a string; string
	IntSetting      SettingType = "int"      // a whole number; int64
	FloatSetting    SettingType = "float"    // a number; float64
	BoolSetting     SettingType = "bool"     // true or false; bool
	DurationSetting SettingType = "duration" // a string such as "1m30s" or "90d", not negative; time.Duration
	SizeSetting     SettingType = "size"     // a string such as "64MiB"; Size
	TextsSetting    SettingType = "list"     // a list of strings; []string
	TextMapSetting  SettingType = "map"      // an object whose values are strings; map[string]string
)

// Declarer is a Configurable that says beforehand what its block may hold. The host then checks the block itself, and names
// the line of what is wrong. Settings makes one.
type Declarer interface {
	Configurable
	// DeclareSettings returns what the block may hold. None at all: the block must be empty; nil: that is not said.
	DeclareSettings() ([]Setting, error)
}

const maxSettings = 250

// CheckSettings returns the first mistake in what a plugin declares: a name or type that is none, a default that is not of
// its setting's type.
func CheckSettings(declared []Setting) error {
	if len(declared) > maxSettings {
		return Errorf(CodeInvalid, "%d settings; at most %d can be declared", len(declared), maxSettings)
	}
	seen := make(map[string]bool, len(declared))
	for i := range declared {
		s := &declared[i]
		if err := checkName(s.Name); err != nil {
			return Errorf(CodeInvalid, "setting %q: %w", s.Name, err)
		}
		if seen[s.Name] {
			return Errorf(CodeInvalid, "two settings are named %q", s.Name)
		}
		seen[s.Name] = true
		if s.example() == "" {
			return Errorf(CodeInvalid, "setting %q: there is no type %q of settings", s.Name, s.Type)
		}
		if s.Required && s.Default != "" {
			return Errorf(CodeInvalid, "setting %q: one that is required has no default", s.Name)
		}
		if _, err := s.DefaultValue(); err != nil {
			return Errorf(CodeInvalid, "the default of setting %w", err)
		}
	}
	return nil
}

// Parse returns value, decoded from JSON with numbers as json.Number, as the Go type that SettingType lists. Its error is a
// BadSetting for people, in the words of the configuration file. It quotes no secret.
func (s *Setting) Parse(value any) (any, error) {
	switch s.Type {
	case TextSetting:
		if text, ok := value.(string); ok {
			return text, nil
		}
	case IntSetting:
		if number, ok := value.(json.Number); ok {
			return s.whole(number)
		}
	case FloatSetting:
		if number, ok := value.(json.Number); ok {
			f, err := number.Float64()
			if err != nil || math.IsInf(f, 0) {
				return nil, s.bad("%s is out of range", s.quote(number))
			}
			return f, nil
		}
	case BoolSetting:
		if b, ok := value.(bool); ok {
			return b, nil
		}
	case DurationSetting:
		if text, ok := value.(string); ok {
			d, err := ParseDuration(text)
			if err != nil || d < 0 {
				return nil, s.bad("%s is not a duration; write %s", s.quote(text), s.likelyDuration(text))
			}
			return d, nil
		}
	case SizeSetting:
		if text, ok := value.(string); ok {
			size, err := ParseSize(text)
			if err != nil {
				return nil, s.bad("%s is not a size; write %s", s.quote(text), s.example())
			}
			return size, nil
		}
	case TextsSetting:
		if items, ok := value.([]any); ok {
			return s.texts(items)
		}
	case TextMapSetting:
		if members, ok := value.(map[string]any); ok {
			return s.textMap(members)
		}
	}
	return nil, s.bad("want %s, got %s; write %s", s.form(), kindOfJSON(value), s.likely(value))
}

func (s *Setting) bad(format string, args ...any) *Error { return BadSetting(s.Name, format, args...) }

// quote returns a value for an error.
func (s *Setting) quote(value any) string {
	if s.Secret {
		return "the value (not shown: it is a secret)"
	}
	if number, ok := value.(json.Number); ok {
		return number.String()
	}
	return fmt.Sprintf("%.200q", value)
}

func (s *Setting) whole(number json.Number) (any, error) {
	n, err := number.Int64()
	if err == nil {
		return n, nil
	}
	if f, _ := number.Float64(); f == math.Trunc(f) && math.Abs(f) < 1<<53 { // 1e3 is whole too
		return int64(f), nil
	}
	return nil, s.bad("%s is not a whole number of 64 bits", s.quote(number))
}

func (s *Setting) texts(items []any) (any, error) {
	texts := make([]string, 0, len(items))
	for i, item := range items {
		text, ok := item.(string)
		if !ok {
			return nil, s.bad("item %d: want text in quotes, got %s", i+1, kindOfJSON(item))
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func (s *Setting) textMap(members map[string]any) (any, error) {
	texts := make(map[string]string, len(members))
	for name, member := range members {
		text, ok := member.(string)
		if !ok {
			return nil, s.bad("%s: want text in quotes, got %s", name, kindOfJSON(member))
		}
		texts[name] = text
	}
	return texts, nil
}

func kindOfJSON(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case string:
		return "text"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	}
	return "an object"
}

// form names what a value of the setting looks like, for people.
func (s *Setting) form() string {
	switch s.Type {
	case TextSetting:
		return "text in quotes"
	case IntSetting:
		return "a whole number"
	case FloatSetting:
		return "a number"
	case BoolSetting:
		return "true or false"
	case DurationSetting:
		return "a duration in quotes"
	case SizeSetting:
		return "a size in quotes"
	case TextsSetting:
		return "a list of text"
	case TextMapSetting:
		return "an object of text"
	}
	return string(s.Type)
}

// example is a value as the configuration file has it; empty: the type is unknown.
func (s *Setting) example() string {
	byType := map[SettingType]string{
		TextSetting: `"text"`, IntSetting: "5", FloatSetting: "0.5", BoolSetting: "true", DurationSetting: `"30s"`, SizeSetting: `"64MiB"`,
		TextsSetting: `["text"]`, TextMapSetting: `{ name = "text" }`,
	}
	if s.Default != "" && (s.Type == DurationSetting || s.Type == SizeSetting) {
		return fmt.Sprintf("%q", s.Default)
	}
	return byType[s.Type]
}

// likely is what somebody may have meant who wrote value.
func (s *Setting) likely(value any) string {
	if s.Secret {
		return s.example()
	}
	switch v := value.(type) {
	case json.Number:
		switch s.Type {
		case TextSetting:
			return fmt.Sprintf("%q", v.String())
		case DurationSetting:
			return fmt.Sprintf("%q", v.String()+"s")
		}
	case string:
		number := json.Number(v)
		switch s.Type {
		case TextsSetting:
			return fmt.Sprintf("[%.200q]", v)
		case IntSetting:
			if n, err := number.Int64(); err == nil {
				return fmt.Sprint(n)
			}
		case FloatSetting:
			if f, err := number.Float64(); err == nil {
				return fmt.Sprint(f)
			}
		case BoolSetting:
			if v == "true" || v == "false" {
				return v
			}
		}
	}
	return s.example()
}

func (s *Setting) likelyDuration(text string) string {
	if s.Secret || strings.HasPrefix(text, "-") {
		return s.example()
	}
	otherwise, err := ParseDuration(s.Default)
	if err != nil {
		otherwise = 30 * time.Second
	}
	return fmt.Sprintf("%q", LikelyDuration(text, otherwise))
}

// DefaultValue returns Default as Parse would, nil if it is empty. As text a default is what stands in the configuration
// file, without quotes ("256", "true", "30s", "some text"); a list or a map is JSON.
func (s *Setting) DefaultValue() (any, error) {
	if s.Default == "" {
		return nil, nil //nolint:nilnil // none is no error
	}
	switch s.Type {
	case TextSetting, DurationSetting, SizeSetting:
		return s.Parse(s.Default)
	}
	value, err := decodeNumbers([]byte(s.Default))
	if err != nil {
		return nil, s.bad("%q is not %s", s.Default, s.form())
	}
	return s.Parse(value)
}

// decodeNumbers decodes JSON as Parse takes it.
func decodeNumbers(text []byte) (value any, err error) {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("there is more than one value")
	}
	return value, nil
}

// ParseSettings checks a config block, a JSON object, against what is declared, and returns the settings that it gives, as
// Parse does. The error has every mistake: SettingErrors returns them.
func ParseSettings(declared []Setting, block json.RawMessage) (map[string]any, error) {
	if len(block) == 0 {
		block = json.RawMessage("{}")
	}
	value, err := decodeNumbers(block)
	if err != nil {
		return nil, Errorf(CodeInvalid, "the config block is not valid JSON: %w", err)
	}
	given, ok := value.(map[string]any)
	if !ok {
		return nil, Errorf(CodeInvalid, "the config block is %s, not an object", kindOfJSON(value))
	}
	var found badSettings
	parsed := make(map[string]any, len(given))
	for i := range declared {
		s := &declared[i]
		value, ok := given[s.Name]
		switch {
		case ok:
			delete(given, s.Name)
			if parsed[s.Name], err = s.Parse(value); err != nil {
				found = append(found, err)
			}
		case s.Required:
			found = append(found, s.bad("it is missing; write %s = %s", s.Name, s.example()))
		}
	}
	for name := range given {
		found = append(found, UnknownSetting(name, declared))
	}
	if len(found) > 0 {
		return nil, found.inOrder()
	}
	return parsed, nil
}

// UnknownSetting says that a block has a setting which is not among declared.
func UnknownSetting(name string, declared []Setting) *Error {
	names := make([]string, len(declared))
	for i := range declared {
		names[i] = declared[i].Name
	}
	hint := didYouMean(name, names)
	switch {
	case len(names) == 0:
		hint = "; the plugin takes no settings: remove it"
	case hint == "":
		hint = "; there are: " + strings.Join(names, ", ")
	}
	err := BadSetting(name, "")
	err.Message = fmt.Sprintf("unknown setting %q%s", name, hint)
	return err
}

// BadSetting returns an error about a setting of a config block: its value can not be used. The host adds its place in the
// configuration file. The message begins with the setting's name. What Configure returns may join several.
func BadSetting(name, format string, args ...any) *Error {
	err := Errorf(CodeInvalid, format, args...)
	err.Setting, err.Message = name, name+": "+err.Message
	return err
}

// SettingErrors returns the errors in err's tree that are about a setting, in order.
func SettingErrors(err error) []*Error {
	if e, ok := err.(*Error); ok && e.Setting != "" { //nolint:errorlint // its causes are looked at below
		return []*Error{e}
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return SettingErrors(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []*Error
		for _, each := range e.Unwrap() {
			all = append(all, SettingErrors(each)...)
		}
		return all
	}
	return nil
}

// badSettings are all mistakes in a block.
type badSettings []error

func (b badSettings) Error() string {
	texts := make([]string, len(b))
	for i, err := range b {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (b badSettings) Unwrap() []error { return b }
