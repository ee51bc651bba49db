# This device, for Starling. "starling config validate" checks the file and names every mistake by line and column.
# Paths start from this file's folder. env("NAME") and env("NAME", "default") read the environment.

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
#   config { ... }          what the plugin itself understands
model "entry" {}

model "location" {
  config {
    ignore = [".git", "node_modules"]
  }
}

model "tag" {}

# How peers are reached: the kind of transport, then this device's own name for it. Each may also take
#   advertise = ["host:7420"]   where peers dial, if that is not where this device listens
# and path, sha256 and config as a model does.
transport "tcp" "lan" {
  listen = "127.0.0.1:7420"
}

# How it syncs. These are the defaults.
sync {
  # heartbeat       = "5s"        # a sign of life between idle peers; three missed ones end a session
  # max_clock_drift = "1m"        # changes stamped further ahead wait until time has passed
  # page_bytes      = "256KiB"    # about the size of one message of changes
  # window_bytes    = "4MiB"      # at most so much unacknowledged for each peer
}

# What it tells: level is "trace", "debug", "info", "warn" or "error"; format is "text" or "json". Without a file it
# goes to standard error.
log {
  level  = "info"
  format = "text"
  # file = "./starling.log"
}
