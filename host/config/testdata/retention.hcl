library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
sync {
  audit = 0
  retention {
    age       = "11y"
    bytes     = 0
    conflicts = "20000d"
  }
  retention {
    age = "1d"
  }
}
sync { audit = "-1h" }
