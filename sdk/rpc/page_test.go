package rpc

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
)

// TestPage holds docs/plugin-protocol.md to the code: what others write plugins against must not rot.
func TestPage(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	page, proto := read("../../docs/plugin-protocol.md"), read("rpcpb/rpc.proto")
	want := []string{
		"`" + handshake().MagicCookieKey + "`", handshake().MagicCookieValue,
		"`" + envLifeline + "`", "`" + envHost + "`", "`" + envListeners + "`", "`" + envLogLevel + "`",
		fmt.Sprintf("the number of a descriptor, %d,", lifelineDescriptor), fmt.Sprintf("descriptors %d, %d, ...", firstListener, firstListener+1),
		fmt.Sprintf("| `PLUGIN_PROTOCOL_VERSIONS` | the versions of this protocol that the host speaks, with commas between: `%d` |", protocolVersion),
		fmt.Sprintf("| a message, either way | %d MiB.", MaxMessageBytes>>20),
		fmt.Sprintf("| a row or an operation | %d MiB packed;", sdk.MaxRecordBytes>>20),
		fmt.Sprintf("| start to handshake | %.0f s |", startTimeout.Seconds()),
		fmt.Sprintf("| a batch, from call to answer | %.0f minutes |", callTimeout.Minutes()),
		fmt.Sprintf("| `Stop` to the end of the process | %.0f s,", stopWait.Seconds()),
		fmt.Sprintf("| an error's text | %d KiB |", maxErrorText>>10),
		fmt.Sprintf("tag: %d nil, %d text, %d int, %d float, %d bool, %d bytes, %d id", tagNil, tagText, tagInt, tagFloat, tagBool, tagBytes, tagID),
		fmt.Sprintf(" %d, merge, state, tag, packed value", tagMerged),
		fmt.Sprintf("| the sets and counters of a record | %d KiB,", sdk.MaxPartsBytes>>10),
		fmt.Sprintf(`["%s", [device ...], [[element, place, stamp ...] ...]]`, sdk.AddWins),
		fmt.Sprintf(`["%s", [device ...], [[part, index of the device, stamp, total] ...]]`, sdk.Sum),
		fmt.Sprintf("as in `%s`", (&sdk.Field{Name: "words", Merge: sdk.AddWins}).Column()),
		fmt.Sprintf("`kind` is %d insert,\n%d update, %d delete", sdk.Insert, sdk.Update, sdk.Delete),
		fmt.Sprintf("| `invoice`, text `2026-001` | `%s` |", sdk.KeyID("invoice", "2026-001")),
		fmt.Sprintf("| `seat`, text `A`, int `300` | `%s` |", sdk.KeyID("seat", "A", 300)),
	}
	for _, name := range []sdk.Type{sdk.Text, sdk.Int, sdk.Float, sdk.Bool, sdk.Bytes, sdk.Time, sdk.JSON, sdk.UUID} {
		want = append(want, fmt.Sprintf("| `%s` |", name))
	}
	for _, merge := range []sdk.Merge{sdk.LWW, sdk.Max, sdk.Min, sdk.AddWins, sdk.Sum} {
		want = append(want, fmt.Sprintf("`%s`", merge))
	}
	for _, code := range []sdk.Code{
		sdk.CodeInvalid, sdk.CodeNotFound, sdk.CodeUnknownModel, sdk.CodeUnknownField, sdk.CodeNotOwner, sdk.CodeTooLarge, sdk.CodeStale,
		sdk.CodeDenied, sdk.CodeExpired, sdk.CodeUnsupported, sdk.CodeClockSkew, sdk.CodePruned, sdk.CodeUnavailable, sdk.CodeInternal,
	} {
		want = append(want, fmt.Sprintf("`%s`", code))
	}
	for _, name := range regexp.MustCompile(`(?m)^package (.*);$`).FindStringSubmatch(proto) {
		want = append(want, strings.TrimSuffix(strings.TrimPrefix(name, "package "), ";"))
	}
	for _, m := range regexp.MustCompile(`(?m)^  rpc (\w+)\(|^service (\w+) `).FindAllStringSubmatch(proto, -1) {
		want = append(want, m[1]+m[2])
	}
	for _, text := range want {
		if !strings.Contains(page, text) {
			t.Errorf("docs/plugin-protocol.md lacks %q", text)
		}
	}
	for _, field := range regexp.MustCompile(`(?m)^  (?:repeated |optional )?\w+ (\w+) = \d+;`).FindAllStringSubmatch(block(proto, "ApplyRequest")+block(proto, "ApplyReply"), -1) {
		if !strings.Contains(page, "`"+field[1]+"`") && !strings.Contains(page, "."+field[1]+"`") {
			t.Errorf("docs/plugin-protocol.md does not say what %s is", field[1])
		}
	}
}

// block returns the fields of a message.
func block(proto, message string) string {
	_, rest, _ := strings.Cut(proto, "\nmessage "+message+" {\n")
	body, _, _ := strings.Cut(rest, "\n}")
	return body + "\n"
}
