package control

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// StatusWarning is a condition of the device that wants a person.
type StatusWarning struct {
	Code WarningCode `json:"code"`
	Text string      `json:"text"` // what is wrong, and what to do
}

// WarningCode names a condition for programs.
type WarningCode string

// The conditions, gravest first.
const (
	WarningRetired        WarningCode = "retired"         // this device was retired
	WarningStoreAway      WarningCode = "store_away"      // the database is out of reach, or does not answer
	WarningStoreBroken    WarningCode = "store_broken"    // the database takes no more writes until the next start
	WarningStoreFull      WarningCode = "store_full"      // writes fail for want of space
	WarningStoreBusy      WarningCode = "store_busy"      // a write has been under way for long, and all others wait for it
	WarningRefused        WarningCode = "refused"         // a peer does not take this device for a member
	WarningRunsTwice      WarningCode = "runs_twice"      // two processes are at work as this device
	WarningRestored       WarningCode = "restored"        // this device was restored from an older copy of itself
	WarningClockAhead     WarningCode = "clock_ahead"     // this device's stamps are of the future
	WarningPassedOver     WarningCode = "passed_over"     // a plugin runs a build that is not the one configured, which does not work
	WarningRestamped      WarningCode = "restamped"       // changes made under a wrong clock were given new stamps
	WarningPeerRunsTwice  WarningCode = "peer_runs_twice" // the same, of a peer
	WarningManyWaiting    WarningCode = "waiting"         // more records wait for others than the bound
	WarningAuditsRepaired WarningCode = "repaired"        // audits found differences, which are repaired
)

// WarnRunsTwice says that another process is at work as this device, on a copy of its folder.
func WarnRunsTwice() StatusWarning {
	return StatusWarning{WarningRunsTwice, "this device runs twice: another process is at work on a copy of its data folder. " +
		"Stop one of the two; what both have written is kept and comes together"}
}

// WarnStoreAway says that the database is out of reach, so that nothing is read or written.
func WarnStoreAway(where string, since time.Time, cause error) StatusWarning {
	return StatusWarning{Code: WarningStoreAway, Text: fmt.Sprintf("%s has been out of reach since %s: nothing is read or written until it is back, and this host connects again by itself: %s",
		where, since.Format(time.DateTime), cause)}
}

// WarnStoreSilent says that the database did not answer, whether or not it is known to be out of reach.
func WarnStoreSilent(kind string, waited time.Duration) StatusWarning {
	return StatusWarning{WarningStoreAway, fmt.Sprintf("the store (%s) did not answer within %s, so that what it holds is not shown: ask again, and if it stays so, see that its server, or its disk, works", kind, waited)}
}

// WarnStoreBroken says that the database takes no more writes until the host is started again.
func WarnStoreBroken(cause error) StatusWarning {
	return StatusWarning{WarningStoreBroken, fmt.Sprintf("start this host again: %s. What was acknowledged is kept", cause)}
}

// WarnStoreFull says that writes fail for want of space.
func WarnStoreFull(cause error) StatusWarning {
	return StatusWarning{WarningStoreFull, fmt.Sprintf("%s. What was acknowledged is kept, and this host goes on by itself once there is space", cause)}
}

// WarnStoreBusy says that a write has been under way for a time, for which all others wait.
func WarnStoreBusy(kind string, lasted time.Duration) StatusWarning {
	todo := "see that the disk works; if it stays so, start this host again, and nothing is lost"
	if kind == "postgres" {
		todo = "see what it waits for in pg_stat_activity and pg_locks on the server, and end the session that holds it"
	}
	return StatusWarning{WarningStoreBusy, fmt.Sprintf("a write has been under way for %s, and every other one waits for it: %s", rough(lasted), todo)}
}

// WarnRestored says that this device began from an older copy of itself, and fetches what it had written since.
func WarnRestored() StatusWarning {
	return StatusWarning{WarningRestored, "this device was restored from an older copy and is fetching from its peers what it had written since. " +
		"It may be used meanwhile; keep it connected until this line is gone"}
}

// WarnClockAhead says that this device's stamps are ahead of its clock, so that peers hold what it writes.
func WarnClockAhead(ahead time.Duration) StatusWarning {
	return StatusWarning{WarningClockAhead, fmt.Sprintf("this device has used stamps %s ahead of its clock, which was ahead once, or is behind now. "+
		"Peers hold what it writes until then; check this clock, nothing is lost", rough(ahead))}
}

// WarnRestamped says that changes of this device that no peer had accepted were given new stamps since the start.
func WarnRestamped(changes int64) StatusWarning {
	return StatusWarning{WarningRestamped, fmt.Sprintf("this device's clock was wrong: %s that no peer had accepted got new stamps. "+
		"Nothing is lost; check this clock", many(changes, "change"))}
}

// WarnPassedOver says that a plugin runs a build in place of the one that is configured, since that does not work.
func WarnPassedOver(plugin string, running Build, configured, why string) StatusWarning {
	return StatusWarning{WarningPassedOver, fmt.Sprintf("plugin %s runs build %s (sha256:%s), not the one configured (%s): %s. "+
		"Configure one that works, or try it with: starling plugin swap %[1]s %[4]s", plugin, cmp.Or(running.Version, "unknown"), running.SHA256[:min(12, len(running.SHA256))], configured, why)}
}

// warnings returns what the backend warns of, and what follows from the rest of the status.
func (s *Status) warnings() []StatusWarning {
	var all []StatusWarning
	add := func(code WarningCode, format string, args ...any) {
		all = append(all, StatusWarning{code, fmt.Sprintf(format, args...)})
	}
	if !s.RetiredAt.IsZero() {
		add(WarningRetired, "this device was retired at %s: each peer that has heard of it refuses it. "+
			"To let it in again, make it anew with starling init DIR --join and invite it", s.RetiredAt.UTC().Format(time.RFC3339))
	} else if p, others := s.refusing(); p != nil {
		who := p.Name + " refuses"
		if others > 0 {
			who = fmt.Sprintf("%s and %s refuse", p.Name, many(int64(others), "other peer"))
		}
		add(WarningRefused, "%s this device: %s. After joining, that passes; a retired device is to be made anew with starling init DIR --join and invited", who, p.Reason)
	}
	all = append(all, s.Warnings...)
	for i := range s.Peers {
		if p := &s.Peers[i]; p.RunsTwice {
			add(WarningPeerRunsTwice, "%s runs twice: two processes are at work on copies of its data folder. Stop one of the two; nothing is lost. This goes ten minutes after the last sign of the other", p.Name)
		}
	}
	if w := &s.Shadow; w.WaitingBound > 0 && w.Waiting > w.WaitingBound {
		add(WarningManyWaiting, "%s wait for others, more than waiting_records (%s) in the limits of config.hcl. starling waiting says for which",
			many(w.Waiting, "record"), humanize.Comma(w.WaitingBound))
	}
	if s.Repaired > 0 {
		add(WarningAuditsRepaired, "audits have put %s right since the start, which should not have been needed. The log says which; please report it", many(s.Repaired, "record"))
	}
	return all
}

// refusing returns a peer that does not take this device for a member, and how many more there are.
func (s *Status) refusing() (first *Peer, others int) {
	for i := range s.Peers {
		switch p := &s.Peers[i]; {
		case !p.Refuses:
		case first == nil:
			first = p
		default:
			others++
		}
	}
	return first, others
}

func many(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return humanize.Comma(n) + " " + noun + "s"
}

// rough writes a length of time to the second: "4m", "1h4m30s".
func rough(d time.Duration) string {
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		return strings.TrimSuffix(text, "0s")
	}
	return text
}
