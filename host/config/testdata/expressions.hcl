library "home" {}
device "alice" { data_dir = data }
store "sqlite" { durability = "${mode.x}" }
plugin_dir = envv("PLUGINS")
model "a" { path = env("UNSET") }
model "b" { path = env() }
model "c" { path = env("SET", "a", "b") }
model "d" { path = env(["x"]) }
model "e" { path = 1 + "x" }
model "f" { path = "a\u0000b" }
