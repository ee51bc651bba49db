library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
transport "tcp" "a" { listen = "0.0.0.0" }
transport "tcp" "b" { listen = "7420" }
transport "tcp" "c" { listen = 7420 }
transport "tcp" "d" { listen = "localhost:http" }
transport "tcp" "e" { listen = "127.0.0.1:70000" }
transport "tcp" "f" {
  listen    = "[::1]:7420"
  advertise = ["nas", "0.0.0.0:7420", "nas:0", 5, "nas:7420"]
}
transport "tcp" "g" { advertise = "nas:7420" }
transport "nats" "bus" { listen = "starling.devices" }
transport "nats" "spaced" { listen = "v x" }
transport "nats" "wild" { listen = "v*" }
transport "nats" "tcp" {
  listen    = "0.0.0.0:7420"
  advertise = ["home.alice", "a..b"]
}
