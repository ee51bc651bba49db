library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}

sync {
  page_bytes   = "262144"
  window_bytes = 4

  retention {
    bytes = "1.5GB"
  }

  limits {
    frame_bytes    = "4M"
    decoded_bytes  = "8 mib"
    max_page_bytes = "3PiB"
    text_bytes     = "4000 B"
    heads          = "many"
    retry_min      = "1m"
    retry_max      = "1s"
  }
}
