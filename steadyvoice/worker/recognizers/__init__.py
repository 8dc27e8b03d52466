"""Speech to text. Each module is one engine behind `steadyvoice.worker.registry.Model`; items are `RecognizeItem`s."""
