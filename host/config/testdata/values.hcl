library "home" { join = "yes" }
device "alice" { data_dir = ["x"] }
store "sqlite" { durability = true }
model "entry" {
  path   = null
  sha256 = "abc"
  config = "x"
}
model "tag" {
  sha256 = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
  config "x" {
    a = 1
    b { c = 2 }
  }
}
sync {
  heartbeat       = 5
  max_clock_drift = "1000h"
  page_bytes      = 262144
  window_bytes    = "lots"
}
