package sdk

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings returns what takes a config block whose settings are the fields of the struct that target points to, each named
// by its tag:
//
//	type settings struct {
//	  Servers  []string      `starling:"servers,required" doc:"where it connects"`
//	  Timeout  time.Duration `starling:"timeout" doc:"until a dial is given up"`
//	  Password string        `starling:"password,secret"`
//	}
//
// The values that target points to now are the defaults. Configure puts the block's into it; where the struct has a method
//
//	Check() error
//
// it is asked whether the values make sense before they are taken; its error is best a BadSetting, or several joined by
// errors.Join. After an error target is as it was. A setting's option secret keeps its value from being shown, required
// refuses a block without it. Types are string, bool, the integers, float64, time.Duration, Size, []string and
// map[string]string.
//
// A mistake in the tags is an error of both methods. They must not be called at once. What is returned is a ConfigChecker too.
func Settings(target any) Declarer {
	s := &structSettings{target: reflect.ValueOf(target)}
	if s.target.Kind() != reflect.Pointer || s.target.IsNil() || s.target.Elem().Kind() != reflect.Struct {
		s.err = Errorf(CodeInvalid, "sdk.Settings takes a pointer to a struct, not a %T", target)
		return s
	}
	s.defaults = reflect.New(s.target.Type().Elem()).Elem()
	s.defaults.Set(s.target.Elem())
	s.declared = []Setting{}
	for i := range s.defaults.NumField() {
		if s.err = s.add(i); s.err != nil {
			s.err = Errorf(CodeInvalid, "%s.%s: %w", s.defaults.Type(), s.defaults.Type().Field(i).Name, s.err)
			return s
		}
	}
	s.err = CheckSettings(s.declared)
	return s
}

// ConfigFunc takes a config block as it is. It declares no settings, so that the host can not check them.
type ConfigFunc func(ctx context.Context, config json.RawMessage) error

// Configure implements Configurable.
func (f ConfigFunc) Configure(ctx context.Context, config json.RawMessage) error {
	return f(ctx, config)
}

// noSettings takes none.
type noSettings struct{}

// Configure implements Configurable.
func (n noSettings) Configure(ctx context.Context, config json.RawMessage) error {
	return n.CheckConfig(ctx, config)
}

// CheckConfig implements ConfigChecker.
func (noSettings) CheckConfig(_ context.Context, config json.RawMessage) error {
	_, err := ParseSettings(nil, config)
	return err
}

// DeclareSettings implements Declarer.
func (noSettings) DeclareSettings() ([]Setting, error) { return []Setting{}, nil }

// structSettings are the settings of Settings.
type structSettings struct {
	target   reflect.Value // of the pointer
	defaults reflect.Value // of a copy of the struct
	declared []Setting
	fields   []int // of the struct; parallel to declared
	err      error // in the tags
}

// DeclareSettings implements Declarer.
func (s *structSettings) DeclareSettings() ([]Setting, error) {
	return slices.Clone(s.declared), s.err
}

// Configure implements Configurable.
func (s *structSettings) Configure(_ context.Context, config json.RawMessage) error {
	next, err := s.read(config)
	if err == nil {
		s.target.Elem().Set(next)
	}
	return err
}

// CheckConfig implements ConfigChecker.
func (s *structSettings) CheckConfig(_ context.Context, config json.RawMessage) error {
	_, err := s.read(config)
	return err
}

// read returns a struct of the defaults and what a block says, which makes sense.
func (s *structSettings) read(config json.RawMessage) (reflect.Value, error) {
	if s.err != nil {
		return reflect.Value{}, s.err
	}
	parsed, err := ParseSettings(s.declared, config)
	if err != nil {
		return reflect.Value{}, err
	}
	next := reflect.New(s.defaults.Type())
	next.Elem().Set(s.defaults)
	for i := range s.declared {
		value, given := parsed[s.declared[i].Name]
		if !given {
			continue
		}
		if err := assign(next.Elem().Field(s.fields[i]), value, &s.declared[i]); err != nil {
			return reflect.Value{}, err
		}
	}
	if check, ok := next.Interface().(interface{ Check() error }); ok {
		if err := check.Check(); err != nil {
			return reflect.Value{}, err
		}
	}
	return next.Elem(), nil
}

// add reads the tag of a field.
func (s *structSettings) add(index int) error {
	f := s.defaults.Type().Field(index)
	tag, tagged := f.Tag.Lookup("starling")
	switch {
	case tag == "-" || (!tagged && !f.IsExported()):
		return nil
	case !tagged:
		return Errorf(CodeInvalid, `it has no tag; name its setting as in starling:"name", or leave it out with starling:"-"`)
	case !f.IsExported():
		return Errorf(CodeInvalid, "it has a tag but is not exported; give it an upper-case name")
	}
	name, options, _ := strings.Cut(tag, ",")
	setting := Setting{Name: name, Type: settingType(f.Type), Doc: f.Tag.Get("doc")}
	if setting.Type == "" {
		return Errorf(CodeInvalid, "a setting can not be a %s; use string, bool, an integer, float64, time.Duration, sdk.Size, []string or map[string]string", f.Type)
	}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "":
		case "required":
			setting.Required = true
		case "secret":
			setting.Secret = true
		default:
			return Errorf(CodeInvalid, "tag option %q is unknown%s", option, didYouMean(option, []string{"required", "secret"}))
		}
	}
	var err error
	if !setting.Required && !setting.Secret {
		setting.Default, err = textOf(s.defaults.Field(index))
	}
	s.declared, s.fields = append(s.declared, setting), append(s.fields, index)
	return err
}

func settingType(t reflect.Type) SettingType {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return DurationSetting
	case t == reflect.TypeFor[Size]():
		return SizeSetting
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return TextsSetting
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String:
		return TextMapSetting
	}
	switch t.Kind() {
	case reflect.String:
		return TextSetting
	case reflect.Bool:
		return BoolSetting
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return IntSetting
	case reflect.Float32, reflect.Float64:
		return FloatSetting
	}
	return ""
}

// textOf is the value of a field as Setting.Default has it. Where it is empty, or zero where zero can not be told from
// left out, there is no default.
func textOf(v reflect.Value) (string, error) {
	switch value := v.Interface().(type) {
	case time.Duration:
		if value == 0 {
			return "", nil
		}
		return FormatDuration(value), nil
	case Size:
		if value == 0 {
			return "", nil
		}
		return value.String(), nil
	}
	switch {
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Map:
		if v.Len() == 0 {
			return "", nil
		}
		text, err := json.Marshal(v.Interface())
		return string(text), err
	case v.Kind() == reflect.String:
		return v.String(), nil
	case v.Kind() == reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	case v.IsZero():
		return "", nil
	}
	text, err := json.Marshal(v.Interface())
	return string(text), err
}

// assign puts what Parse returned into a field.
func assign(field reflect.Value, value any, s *Setting) error {
	out := func(least, most any) error {
		return s.bad("%s is out of range; want %v to %v", s.quote(json.Number(strconv.FormatInt(value.(int64), 10))), least, most) //nolint:forcetypeassert // Parse made it
	}
	switch v := value.(type) {
	case int64:
		bits := field.Type().Bits()
		switch {
		case field.CanInt() && field.OverflowInt(v):
			return out(-int64(1)<<(bits-1), int64(1)<<(bits-1)-1)
		case field.CanInt():
			field.SetInt(v)
		case v < 0 || field.OverflowUint(uint64(v)):
			return out(0, uint64(math.MaxUint64)>>(64-bits))
		default:
			field.SetUint(uint64(v))
		}
	case float64:
		field.SetFloat(v)
	case string:
		field.SetString(v)
	case bool:
		field.SetBool(v)
	default: // time.Duration, Size, or a list or map of a type that may be named
		field.Set(reflect.ValueOf(value).Convert(field.Type()))
	}
	return nil
}

// inOrder returns b sorted by setting.
func (b badSettings) inOrder() badSettings {
	slices.SortStableFunc(b, func(x, y error) int {
		return cmp.Compare(SettingErrors(x)[0].Setting, SettingErrors(y)[0].Setting)
	})
	return b
}
