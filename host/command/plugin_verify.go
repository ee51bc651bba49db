package command

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
	"github.com/starling-sync/starling/sdk/verify"
)

// verifyFlags are the flags of plugin verify.
type verifyFlags struct {
	config  string
	records []string
	listen  string
	seed    uint64
	laws    []string
	verbose bool
}

func (a *app) pluginVerifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := a.reads(&cobra.Command{
		Use:   "verify BINARY|NAME",
		Short: "Check a built plugin, of any language, against the laws that plugins keep",
		Long: "Check a built plugin, of any language, against the laws that plugins keep: of its process, and of the models or the " +
			"transport that it serves. Each law has an id that stays; docs/conformance.md says what each is about. NAME is that of a model or transport block; " +
			"its binary is checked with the settings of --config, not with those of the block.\n\n" +
			"Status 0 if every law is kept. A law that can not be checked here is skipped, with the reason.",
		Example: "  starling plugin verify ./invoice\n" +
			"  starling plugin verify ./entry --record '{\"name\":\"a\",\"kind\":\"file\",\"size\":1,\"permissions\":420}'\n" +
			"  starling plugin verify ./pigeon --listen 127.0.0.1:0 --config '{\"dial_timeout\":\"5s\"}'",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verify(cmd, args[0], &f)
		},
	})
	cmd.Flags().StringVar(&f.config, "config", "", "give the model that it serves first, or the transport, this config block, a `JSON` object")
	cmd.Flags().StringArrayVar(&f.records, "record", nil, "a record that the model accepts, a `JSON` object, whose values the laws use; may be repeated")
	cmd.Flags().StringVar(&f.listen, "listen", "", "`address` where a transport can listen (default 127.0.0.1:0)")
	cmd.Flags().StringSliceVar(&f.laws, "law", nil, "check only the laws with these `ids`, such as MODEL-030; may be repeated")
	cmd.Flags().Uint64Var(&f.seed, "seed", 0, "repeat the random histories of the run that printed this `number` (default: new ones)")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "print all of every reason")
	return cmd
}

// again is how package rapid says how a failure can be repeated in a test.
var again = regexp.MustCompile(`\nTo (?:try to )?reproduce, specify -run="[^"]*" -rapid\.seed=([0-9]+)(?:\nFailed test output:)?`)

func (a *app) verify(cmd *cobra.Command, path string, f *verifyFlags) error {
	o := verify.Options{Listen: f.listen, Only: f.laws}
	if f.config != "" {
		var block map[string]json.RawMessage
		if err := json.Unmarshal([]byte(f.config), &block); err != nil {
			return misusef(cmd, "--config: %s is not a JSON object, such as {\"limit\":5}: %v", plain(f.config), err)
		}
		o.Config = json.RawMessage(f.config)
	}
	for _, record := range f.records {
		o.Records = append(o.Records, json.RawMessage(record))
	}
	path, err := a.binary(path)
	if err != nil {
		return err
	}
	var failed error // of printing
	report, err := verify.Plugin(cmd.Context(), path, o, f.seed, func(r sdktest.Result) {
		if failed == nil {
			failed = a.law(&r, f.verbose)
		}
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return a.verdict(&report)
}

// binary returns the path of the plugin that is meant: a file, or else the binary of the configured plugin of that name.
func (a *app) binary(name string) (string, error) {
	if _, err := os.Stat(name); err == nil || strings.ContainsRune(name, os.PathSeparator) || strings.Contains(name, "/") {
		return name, nil
	}
	c, err := a.load()
	if err != nil {
		return "", sdk.Errorf(sdk.CodeNotFound, "there is no file %s here, and no configuration that could name such a plugin: %w", name, err)
	}
	var names []string
	for i := range c.Models {
		if names = append(names, string(c.Models[i].Name)); string(c.Models[i].Name) == name && c.Models[i].Path != "" {
			return c.Models[i].Path, nil
		}
	}
	for i := range c.Transports {
		if names = append(names, c.Transports[i].Name); c.Transports[i].Name == name && c.Transports[i].Path != "" {
			return c.Transports[i].Path, nil
		}
	}
	return "", sdk.Errorf(sdk.CodeNotFound, "there is no file %s here, and no plugin of that name with a binary in %s; there are: %s", name, a.config(), strings.Join(names, ", "))
}

// law prints one result.
func (a *app) law(r *sdktest.Result, verbose bool) error {
	if a.json {
		return a.object(r)
	}
	of := ""
	if r.Of != "" {
		of = r.Of + ": "
	}
	if err := a.printf("%-7s  %-13s  %5.1f s  %s%s\n", r.Status, r.ID, r.Seconds, plain(of), r.Says); err != nil {
		return err
	}
	for i, reason := range r.Reasons {
		if left := len(r.Reasons) - i; i >= reasons && left > 1 && !verbose {
			return a.printf("           ... %s more; --verbose prints them\n", count(int64(left), "reason"))
		}
		reason = strings.ReplaceAll(reason, "[rapid] ", "")
		text := indented(again.ReplaceAllString(reason, ""), verbose)
		if seed := again.FindStringSubmatch(reason); seed != nil {
			text += fmt.Sprintf("           to repeat it: --law %s --seed %s\n", r.ID, seed[1])
		}
		if err := a.printf("%s", text); err != nil {
			return err
		}
	}
	return nil
}

// How many reasons are printed, and how many lines of each.
const (
	reasons     = 5
	reasonLines = 40
)

// indented returns the reason as lines under its law, with what a terminal would act upon left out.
func indented(reason string, whole bool) string {
	lines := strings.Split(strings.TrimSpace(reason), "\n")
	more := ""
	if left := len(lines) - reasonLines; left > 0 && !whole {
		lines, more = lines[:reasonLines], fmt.Sprintf("           ... %s more; --verbose prints them\n", count(int64(left), "line"))
	}
	var out strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&out, "           %s\n", plain(strings.NewReplacer("\t", "  ", "\u00a0", " ").Replace(line)))
	}
	return out.String() + more
}

// verdict prints the summary, and fails if a law is broken.
func (a *app) verdict(r *verify.Report) error {
	if a.json {
		if err := a.object(r); err != nil {
			return err
		}
	} else if err := a.printf("\n%s: %s\n%d kept, %d broken, %d skipped\n", plain(r.Plugin), plain(serves(r)), r.Kept, r.Broken, r.Skipped); err != nil {
		return err
	}
	if r.Broken == 0 {
		return nil
	}
	var ids []string
	for _, result := range r.Results {
		if result.Status == sdktest.Broken {
			ids = append(ids, result.ID)
		}
	}
	return sdk.Errorf(sdk.CodeInvalid, "%s breaks %s: %s", r.Plugin, count(int64(r.Broken), "law"), strings.Join(ids, ", "))
}

// serves says what the plugin serves, for people.
func serves(r *verify.Report) string {
	var parts []string
	for _, m := range r.Models {
		parts = append(parts, "model "+string(m))
	}
	if r.Transport != "" {
		parts = append(parts, "transport "+r.Transport)
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing")
	}
	if r.Version != "" {
		parts = append(parts, "build "+r.Version)
	}
	return "serves " + strings.Join(parts, ", ")
}
