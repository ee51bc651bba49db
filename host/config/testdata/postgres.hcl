library "home" {}
device "alice" { data_dir = "data" }
store "postgres" {
  dsn        = "postgres://alice:s3cret@db.example/home"
  schema     = "public"
  durability = "normal"
}
