//go:build linux

package docs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestSystemd installs a device as deploy/README.md says, command by command, on a systemd that is booted for it in a container
// with a network of its own, and has it restarted and killed while somebody connects all the time: nobody is refused.
func TestSystemd(t *testing.T) {
	if os.Getenv("STARLING_SYSTEMD") != "1" {
		t.Skip("boots a systemd in a container, with mounts and cgroups of this machine: set STARLING_SYSTEMD=1, or run task test:systemd")
	}
	if os.Geteuid() != 0 {
		t.Fatal("only root boots a systemd in a container")
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Fatalf("%v; on Debian: apt-get install systemd-container", err)
	}
	page, err := os.ReadFile("../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## As a systemd service\n")
	blocks := regexp.MustCompile(`(?:\n(?:    .*|))+\n`).FindAllString(section, 4) // their empty lines among them
	if len(blocks) < 3 || !strings.Contains(blocks[2], "systemctl enable") {
		t.Fatalf("the page's commands are not where they were: %q", blocks)
	}
	m := boot(t)
	m.run(t, "cd /srv/checkout\n"+blocks[0])
	m.edit(t, "/etc/starling/config.hcl", blocks[1])
	if said := m.run(t, "cd /srv/checkout\n"+blocks[2]); !strings.Contains(said, "alice   home") {
		t.Errorf("status says:\n%s", said)
	}
	said := m.run(t, `
		grep -E 'Seccomp:|NoNewPrivs:|CapEff:' /proc/$(systemctl show -p MainPID --value starling)/status
		systemctl reload starling
		touch /srv/dialling
		while [ -e /srv/dialling ]; do
			if (exec 3<>/dev/tcp/127.0.0.1/7420) 2>/dev/null; then echo connected; else echo refused; fi
			sleep 0.01
		done > /srv/dialled & dialling=$!
		for i in 1 2 3; do systemctl restart starling; done
		systemctl kill -s KILL --kill-who=main starling
		until [ "$(systemctl show -p NRestarts --value starling)" = 1 ] && systemctl -q is-active starling; do sleep 0.2; done
		rm /srv/dialling; wait $dialling
		sort /srv/dialled | uniq -c`)
	for _, want := range []string{`Seccomp:\s2`, `NoNewPrivs:\s1`, `CapEff:\s0+\n`, `\d\d+ connected`} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("want %s:\n%s", want, said)
		}
	}
	if strings.Contains(said, "refused") {
		t.Errorf("somebody was refused:\n%s", said)
	}
	t.Log(said)
	m.run(t, `
		cd /srv
		starling init bob --join --listen 127.0.0.1:7421
		echo 'plugin_dir = "/usr/lib/starling/plugins"' >> bob/config.hcl
		systemd-run -q /usr/bin/starling run --config /srv/bob/config.hcl
		alice="runuser -u starling -- starling --config /etc/starling/config.hcl"
		until starling --config bob/config.hcl status; do sleep 0.2; done
		starling --config bob/config.hcl join "$($alice invite | grep -o 'starling1-[^ ]*')"
		id=$($alice put tag '{"name":"by a service"}')
		until starling --config bob/config.hcl get tag "$id"; do sleep 0.2; done
		systemctl stop starling.socket starling.service
		[ "$(systemctl show -p Result --value starling)" = success ]
		! pgrep -u starling`)
}

// machine is a container in which systemd runs.
type machine struct {
	root string // its root folder, seen from outside but for /usr
	init int    // its first process, by the number outside
}

// boot makes the machine. Its /usr is this machine's, with a layer to write to; whatever it mounts goes with it.
func boot(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{root: filepath.Join(dir, "root")}
	checkout := filepath.Join(m.root, "srv", "checkout")
	if err := os.MkdirAll(checkout, 0o755); err != nil { //nolint:gosec // of every user in there
		t.Fatal(err)
	}
	if _, err := clustertest.Binaries(filepath.Join(checkout, "bin")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(checkout, "deploy"), os.DirFS("../deploy")); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // whose end would end the machine, as the test's does
	t.Cleanup(runtime.UnlockOSThread)
	cmd := exec.Command("unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "bash", "-euc", `
		cd "$0"; mkdir -p upper work root/usr root/etc/systemd/system root/var/lib root/run root/proc root/sys root/dev root/tmp
		for link in bin sbin lib lib64; do ln -s usr/$link root/$link; done
		cd /etc; cp -a --parents passwd group shadow nsswitch.conf ld.so.c* os-release alternatives dbus-1 pam.d security environment login.defs "$0/root/etc"
		cd "$0"; : > root/etc/machine-id
		for unit in systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-logind.service systemd-udevd.service \
			getty.target console-getty.service postgresql.service cron.service ssh.service; do ln -sf /dev/null root/etc/systemd/system/$unit; done
		mount -t overlay overlay -o lowerdir=/usr,upperdir=upper,workdir=work root/usr
		export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
		exec systemd-nspawn -q -D root --register=no --keep-unit --boot --console=pipe --link-journal=no --resolv-conf=off --timezone=off --private-network`, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.try("journalctl --no-pager -o cat -u starling | tail -n 60")
			t.Logf("journal of the service:\n%s", out)
		}
		_ = cmd.Process.Kill() // and the kernel ends its child, and with that all processes of the child's namespace
		<-ended
	})
	late := time.After(time.Minute)
	for {
		m.init = systemdBelow(cmd.Process.Pid)
		if m.init != 0 {
			if state, _ := m.try("systemctl is-system-running"); strings.Contains(state, "running") || strings.Contains(state, "degraded") {
				return m
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it does not boot: %v\n%s", err, said.String())
		case <-late:
			t.Fatalf("it does not boot within a minute: %s", said.String())
		case <-time.After(100 * time.Millisecond): // nothing tells when it has
		}
	}
}

// systemdBelow returns the first systemd among the descendants of a process; 0: there is none.
func systemdBelow(pid int) int {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // none, if it has gone
	for _, child := range strings.Fields(string(children)) {
		below, err := strconv.Atoi(child)
		if err != nil {
			continue
		}
		if name, _ := os.ReadFile("/proc/" + child + "/comm"); strings.TrimSpace(string(name)) == "systemd" {
			return below
		}
		if found := systemdBelow(below); found != 0 {
			return found
		}
	}
	return 0
}

// try runs a script in the machine, as root.
func (m *machine) try(script string) (output string, err error) {
	if m.init == 0 {
		return "", errors.New("it does not run")
	}
	cmd := exec.Command("nsenter", "-t", strconv.Itoa(m.init), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", //nolint:gosec // our own pages
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "bash", "-euo", "pipefail", "-c", script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try of what must succeed.
func (m *machine) run(t *testing.T, script string) string {
	t.Helper()
	out, err := m.try(script)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return out
}

// edit has a configuration say what a block of the page does: its line about the device in the place of the one that there is,
// the others after all.
func (m *machine) edit(t *testing.T, file, block string) {
	t.Helper()
	path := filepath.Join(m.root, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	device := regexp.MustCompile(`(?m)^    device .*$`)
	had := regexp.MustCompile(`(?ms)^device .*?^}$`)
	if !device.MatchString(block) || !had.Match(text) {
		t.Fatalf("no block device in %q or in\n%s", block, text)
	}
	changed := had.ReplaceAllLiteralString(string(text), device.FindString(block)) + device.ReplaceAllLiteralString(block, "")
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}
