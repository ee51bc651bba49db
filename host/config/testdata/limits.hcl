library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
sync {
  limits "hard" {
    max_page = "4MiB"
    retry_mx = "1m"
    sendtime = "1m"
    burst    = 5
    page_bytes = "1MiB"
  }
}
