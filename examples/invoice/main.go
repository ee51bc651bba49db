// Command invoice serves the models invoice and invoice_item to Starling. It stands outside of Starling's own module, as a
// plugin of yours does; only the replace line in its go.mod says that it lives in the same checkout.
package main

import "github.com/starling-sync/starling/sdk/rpc"

func main() { rpc.Serve(invoices(new(settings)), items()) }
