library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
sync {
  limits {
    max_page_bytes = "4MiB"
    decoded_bytes  = "4MiB"
    members_bytes  = "2MiB"
    retry_min      = "1m"
    marks          = 100000
  }
}
