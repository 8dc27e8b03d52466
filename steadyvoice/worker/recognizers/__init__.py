"""Speech to text. Each module is one engine behind `steadyvoice.worker.models.Model`; items are `RecognizeItem`s."""
