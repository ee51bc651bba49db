package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Check is one thing that a device needs to be well.
type Check struct {
	Name string `json:"name"`
	// OK is whether it is. A check that fails does not keep the others from being made.
	OK bool `json:"ok"`
	// Reason says why not, for people; of one that is well it may be a remark.
	Reason string `json:"reason,omitempty"`
}

// Health makes the checks. Its methods may be called at once and return within a moment of ctx's end.
type Health interface {
	// Alive says whether the process does its work at all. If it does not, starting it again may help.
	Alive(ctx context.Context) []Check
	// Ready says whether the device does what it is configured for. If it does not, starting it again need not help.
	Ready(ctx context.Context) []Check
}

// Well reports whether every check is.
func Well(checks []Check) bool {
	for _, c := range checks {
		if !c.OK {
			return false
		}
	}
	return true
}

// HealthTime is what a device has for all checks of one request.
const HealthTime = 2 * time.Second

// healthHandler answers with 200 or 503, and a line for each check; a caller that accepts JSON, or asks for ?format=json, gets
// that.
func healthHandler(make func(context.Context) []Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "want GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), HealthTime)
		defer cancel()
		checks := make(ctx)
		status := http.StatusOK
		if !Well(checks) {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("Cache-Control", "no-store")
		if r.URL.Query().Get("format") == "json" || strings.Contains(r.Header.Get("Accept"), "application/json") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(struct {
				OK     bool    `json:"ok"`
				Checks []Check `json:"checks"`
			}{status == http.StatusOK, checks}) // who has gone needs no answer
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		for _, c := range checks {
			mark := "ok    "
			if !c.OK {
				mark = "failed"
			}
			line := fmt.Sprintf("%s  %s", mark, c.Name)
			if c.Reason != "" {
				line += ": " + strings.ReplaceAll(c.Reason, "\n", " ")
			}
			fmt.Fprintln(w, line)
		}
	})
}
