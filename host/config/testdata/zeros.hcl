library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
sync {
  heartbeat  = "0"
  page_bytes = "0"
  audit      = "1ms"
  retention {
    age       = 90
    bytes     = "1KiB"
    conflicts = "1d25h"
  }
  limits {
    batches     = "8192"
    columns     = 1.5
    marks       = 0
    heads       = -1
    epochs      = "many"
    ranges      = 1e9
    frame_bytes = "65MiB"
    text_bytes  = 4096
    retry_min   = "250"
  }
}
