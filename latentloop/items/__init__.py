"""All items at once, without rows x items: softmax, ranks and the best, tile by tile; ids, texts, bonuses."""
