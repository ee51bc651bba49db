library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
sync { heartbeat = "1min" }
transport "tcp" "lan" {
  listen = "0.0.0.0:7420
}
sync { heartbeat = "5s" }
