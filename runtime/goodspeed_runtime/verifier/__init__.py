"""The verifier: serves the target model to many drafters, one packed pass a round."""
