# This device, for Starling. "starling config validate" checks the file and names every mistake by line and column.
# Paths start from this file's folder. env("NAME") and env("NAME", "default") read the environment, file("path") a text file,
# secretfile("path") one that is never shown. "starling config show" prints what takes effect.

# The library: the devices that sync with one another. This device founds it when it first starts.
library "home" {}

# This device. Its database, its key and its plugins' copies lie in data_dir, and nobody else may read them.
device "alice" {
  data_dir = "./data"
}

# Where records are kept. durability "full" survives power loss; "normal" is faster and may then lose the last commits.
store "sqlite" {
  durability = "full"
}

# Where the plugins' binaries lie. Without this line: the folder plugins beside the starling program.
# plugin_dir = "/usr/lib/starling/plugins"

# What is synced: one block for each model plugin. Each may also take
#   path   = "./my-model"   the binary, if it is not in plugin_dir
#   sha256 = "..."          what its checksum must be
#   attach = "..."          the file of a process of it that you run with -debug, used while there is one
#   config { ... }          what the plugin itself understands: starling plugin describe NAME shows it
model "device" {} # what each device says of itself
model "volume" {} # the disks of each device
model "entry" {}  # files and folders

# The folders that are catalogued: starling location add PATH
model "location" {
  config {
    ignore = [".git", "node_modules"]
    # hash = true   # also find out what each file holds, while nothing else is to do: content_hash of its entry
  }
}

model "tag" {}           # tags, and what they are on
model "album" {}         # albums, and what is in them, in order
model "user_metadata" {} # notes, ratings and the like, on a device's files or on content

# How peers are reached: the kind of transport, then this device's own name for it. Each may also take
#   advertise = ["host:7420"]   where peers dial, if that is not where this device listens
# and path, sha256, attach and config as a model does.
transport "tcp" "lan" {
  listen = "127.0.0.1:7420"
}

# Devices that can not reach one another directly meet through a NATS cluster, where each listens as a name of its own.
# docs/fleet.md says when to use which, and what the NATS account must allow. Both ends need it.
# transport "nats" "fleet" {
#   listen = "alice"
#   config {
#     servers = ["tls://hub-1:4222", "tls://hub-2:4222"]
#     creds   = "./alice.creds"
#     subject = "starling.home"
#   }
# }

# How it syncs. These are the defaults. Durations are written "250ms", "5s", "1m30s", "2h", "90d"; sizes "256KiB", "1GiB".
sync {
  # heartbeat       = "5s"        # a sign of life between idle peers; three missed ones end a session
  # max_clock_drift = "1m"        # changes stamped further ahead wait until time has passed
  # page_bytes      = "256KiB"    # about the size of one message of changes
  # window_bytes    = "4MiB"      # at most so much unacknowledged for each peer
  # audit           = "1h"        # how often devices that are alike compare digests, and repair what differs; "0": never

  # How long things are kept. Changes that every device has acknowledged go at once; age and bytes bound the others, so
  # that a device which stays away does not let them grow: once it is back, it gets a snapshot. "0": without limit.
  retention {
    # age       = "90d"     # changes in the log, and marks of deletes
    # bytes     = "1GiB"    # of the log: beyond, its oldest changes go
    # conflicts = "30d"     # values that lost to another write, for: starling conflicts restore
  }

  # What a peer can make this device hold or wait for. More takes memory; less than the other devices have may end sessions
  # with them. What was refused is counted in: starling status --json
  limits {
    # frame_bytes     = "1536KiB"    # a message on the wire
    # decoded_bytes   = "2MiB"       # a message after decompression
    # max_page_bytes  = "1280KiB"    # a page of changes, which one large record may be
    # batches         = 8192         # batches in a page
    # columns         = 1024         # columns in a batch
    # marks           = 16384        # positions in a message that says who has what: two for each device
    # heads           = 64           # positions in one device's history, which copies and restores divide
    # epochs          = 4096         # starts of devices in a message
    # origins         = 4096         # devices in a page of a snapshot, or in a heartbeat
    # ranges          = 16384        # ranges of a model that an audit compares
    # models          = 1024         # models in a greeting, a page of a snapshot or an audit
    # text_bytes      = "4KiB"       # a name, an address or a reason
    # members_bytes   = "1MiB"       # what an inviting device says of the library
    # handshake_time  = "10s"        # from connected to both sides known
    # send_time       = "30s"        # for each piece of what is sent to leave
    # stall_time      = "10s"        # who sends nothing for so long, while another has more, is replaced by that
    # retry_min       = "250ms"      # first pause before dialling, reading or asking again; it doubles
    # retry_max       = "30s"        # greatest such pause
    # dial_time       = "10s"        # for one address
    # request_time    = "30s"        # for the answer to a request, as for a page of a snapshot
    # waiting_records = 100000       # records that may wait for others they refer to; more is a warning in: starling status
  }
}

# What it tells: level is "trace", "debug", "info", "warn" or "error"; format is "text" or "json". Without a file it
# goes to standard error.
log {
  level  = "info"
  format = "text"
  # file = "./starling.log"
}

# What it tells machines: metrics for Prometheus at /metrics, and health checks at /healthz and /readyz, over HTTP and to
# whoever can connect there. Left out, it tells none.
# telemetry { prometheus = "127.0.0.1:9464" }
