library "home" {}
library "work" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
model "entry" {}
model "tag" {}
model "entry" {}
transport "tcp" "lan" { listen = "127.0.0.1:7420" }
transport "tcp" "lan" { listen = "127.0.0.1:7421" }
transport "tcp" "wan" { listen = "127.0.0.1:7420" }
log {
  level = "info"
  level = "warn"
}
model "location" {
  config {
    rescan = "10m"
  }
  config {
    rescan = "20m"
  }
}
model "other" {
  config = { a = 1 }
  config {
    a = 1
  }
}
