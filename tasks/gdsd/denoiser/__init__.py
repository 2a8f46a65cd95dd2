"""What a policy is: a stock transformer read without the causal mask, its tokenizer, loading and saving."""
