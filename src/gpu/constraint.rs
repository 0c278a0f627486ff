//! What a pod demands of its devices by annotation, in our words and in HAMi's.
