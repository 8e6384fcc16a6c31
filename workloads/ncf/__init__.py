"""Neural collaborative filtering: a recommender with embeddings."""
