library "home" {}

device "alice" {
  data_dir = "./data" }

store "sqlite" {
  durability = "full"
}

model "tag" {}
model "entry" {
  colour = 1
}

transport "tcp" "lan" {
  listen = "0.0.0.0:7420"
}

sync {
  heartbeat = "5s"
}
